"""Sessions of parties over the REST API: who may start one, and what a request may say."""

from pathlib import Path

import pytest
from served import Served

from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import RunSpec
from hansa.store.records import ProjectRole, SessionState

SESSIONS = "/api/v1/projects/default/sessions"
PROGRAM = {"spec": {"name": "joint", "parties": ["bank", "insurer"]}}


def test_a_viewer_sees_a_session_of_parties_and_starts_none(served: Served) -> None:
    viewer = served.http(served.token(ProjectRole.VIEWER, name="vera"))
    scientist = served.http(served.token(ProjectRole.DATA_SCIENTIST, name="dora"))
    assert viewer.post(SESSIONS, json=PROGRAM).status_code == 403
    made = scientist.post(SESSIONS, json=PROGRAM)
    assert made.status_code == 201, made.text
    session = made.json()
    assert session["spec"]["parties"] == ["bank", "insurer"]
    one = f"{SESSIONS}/{session['id']}"
    for verb in ("start", "resume", "stop"):
        assert viewer.post(f"{one}/{verb}").status_code == 403
    assert viewer.get(one).json()["state"] == "created"
    assert scientist.post(f"{one}/start").json()["state"] == "running"
    while (waits := viewer.get(f"{one}/why").json())["phase"] is None:  # until it is read what was said before
        assert waits["state"] == "running"
    assert "0 of 2 parties have ended; it waits for bank (away" in waits["sentence"]
    assert scientist.post(f"{one}/stop").json()["state"] == "stopped"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"spec": {}}, "seed_model is missing"),
        (PROGRAM | {"seed_model": "a" * 64}, "seed_model is given"),
        ({"spec": {"parties": ["central", "a"]}}, "there is none"),
        ({"spec": {"parties": ["a", "a"]}}, "there once"),
        ({"spec": {"parties": "bank"}}, "parties"),
        ({"spec": {"parties": ["a"], "transforms": [{"name": "clip", "options": {"norm": 1}}]}}, "no updates"),
    ],
)
def test_a_session_of_parties_that_cannot_be_is_refused(body: dict[str, object], said: str, served: Served) -> None:
    answer = served.http(served.token()).post(SESSIONS, json=body)
    assert answer.status_code in {400, 422}, answer.text
    assert said in answer.text


def test_the_client_uploads_an_app_that_has_a_program_and_no_model(served: Served, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        "import hansa\nfrom hansa.distributed import gossip, star\napp = hansa.App()\n"
        "@app.data\ndef data(client, *, path=''):\n    return path\n"
        "@app.program\ndef program(parties, *, steps=1):\n    return gossip(lambda i: {'w': [i]}, steps), "
        "star(parties)\n"
    )
    api = served.client()
    with pytest.raises(ConfigError, match=r"the app's program has no setting 'path', .*; its settings: steps"):
        api.sessions.prepare(app, RunSpec(parties=("a", "b"), config={"path": "x"}))
    session = api.sessions.prepare(app, RunSpec(parties=("a", "b")))
    assert (session.state, session.seed_model, session.spec.parties) == (SessionState.CREATED, None, ("a", "b"))
    assert session.package is not None
    app.write_text("import hansa\napp = hansa.App()\n")
    with pytest.raises(AppError, match="the app has no program function"):
        api.sessions.prepare(app, parties=("a", "b"))
    with pytest.raises(InputError, match="each must have a name"):
        api.sessions.prepare(app, parties=("a", "a"))
