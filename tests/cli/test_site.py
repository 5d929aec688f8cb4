"""A data owner's own commands: what would run here, who waits, what has left."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from hansa.messages import RunSpec
from hansa.network.client.approvals import Approvals, Request
from hansa.network.client.ledger import LEDGER, Departure, append
from hansa.network.node_keys import NodeKeys, handover
from hansa.packages.package import build, read
from hansa.wire import tokens
from hansa.wire.frames import Role

Hansa = Callable[..., Result]


@pytest.fixture
def work(tiny: Path, tmp_path: Path) -> Path:
    """The folder of a client that has a package, a session that waits, and two things that have left."""
    folder = tmp_path / "work"
    (folder / "packages").mkdir(parents=True)
    data = build(tiny, name="heart")
    package = read(data)
    (folder / "packages" / f"{package.id}.hansa").write_bytes(data)
    Approvals(folder).ask(Request.of("abc123", RunSpec(name="heart", rounds=7), package.digest, ""))
    for kind, size, metrics in (("update", 1000, ["loss"]), ("evaluation", 8, ["accuracy"])):
        at = "2026-01-01T00:00:00+00:00"
        append(folder / LEDGER, Departure(at, "abc123", 1, kind, size, "", metrics, package.id))
    return folder


def test_inspect_shows_what_would_run_who_waits_and_what_has_left(hansa: Hansa, work: Path) -> None:
    shown = hansa("client", "inspect", "--work", work)
    assert shown.exit_code == 0, shown.output
    for part in ("confined   environment limits", "package    heart", "signed by  nobody", "Python imports app.py"):
        assert part in shown.stdout
    assert "waits      session abc123 (heart): 7 rounds of fedavg" in shown.stdout
    assert "left       2 times, 1.01 kB in all" in shown.stdout
    assert "evaluation      8 B  accuracy" in shown.stdout
    told = json.loads(hansa("client", "inspect", "--work", work, "--json").stdout)
    assert [each["kind"] for each in told["left"]] == ["update", "evaluation"]
    assert told["packages"][0]["digest"] == told["waiting"][0]["package"]


def test_a_ledger_that_was_touched_is_not_shown_as_if_it_were_whole(hansa: Hansa, work: Path) -> None:
    lines = (work / LEDGER).read_text().replace('"bytes": 1000', '"bytes": 1')
    (work / LEDGER).write_text(lines)
    refused = hansa("client", "inspect", "--work", work)
    assert refused.exit_code == 1
    assert "a line was changed or removed" in refused.output


@pytest.mark.parametrize(("options", "answer"), [((), True), (("--deny",), False)])
def test_a_person_answers_for_a_session(options: tuple[str, ...], answer: bool, hansa: Hansa, work: Path) -> None:  # noqa: FBT001 - of the table
    request = Approvals(work).open_requests()[0]
    assert hansa("client", "approve", "abc", *options, HANSA_WORK=str(work)).exit_code == 0
    assert Approvals(work).answer(request) is answer
    unknown = hansa("client", "approve", "xyz", "--work", work)
    assert unknown.exit_code == 1
    assert "those that asked: abc123" in unknown.output


def test_without_the_clients_folder_there_is_nothing_to_show(hansa: Hansa, tmp_path: Path) -> None:
    refused = hansa("client", "inspect", "--work", tmp_path / "absent")
    assert refused.exit_code == 1
    assert "give the node's folder" in refused.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('proyects = ["heart"]', "proyects means nothing; did you mean projects?"),
        ('projects = ["heart"]', "the token is for the project default"),
        ("approval = true", "give --work"),
    ],
)
def test_a_client_does_not_start_with_a_policy_that_it_cannot_keep(
    text: str, said: str, hansa: Hansa, tmp_path: Path
) -> None:
    token, _ = tokens.issue(tokens.new_key(), "ward", Role.CLIENT, "default")
    (tmp_path / "site.toml").write_text(text)
    arguments = ("client", "start", "--join", "127.0.0.1:1", "--site", tmp_path / "site.toml")
    refused = hansa(*arguments, HANSA_TOKEN=token)
    assert refused.exit_code == 1
    assert said in refused.output


def test_a_node_is_told_to_change_its_key_and_shows_which_it_had(hansa: Hansa, work: Path) -> None:
    refused = hansa("client", "rotate-key", "--work", work)
    assert refused.exit_code == 1
    assert "has not joined its network yet" in refused.output

    first = NodeKeys(work).make()
    told = json.loads(hansa("client", "rotate-key", "--work", work, "--json").stdout)
    assert told["key"] == first.public
    assert json.loads(hansa("combiner", "rotate-key", "--json", HANSA_WORK=str(work)).stdout) == told
    shown = hansa("client", "inspect", "--work", work).stdout
    assert f"signs      as {first.public}" in shown
    assert f"soon as {told['next']}" in shown

    second = NodeKeys(work).next()
    assert second is not None
    NodeKeys(work).adopt(handover("default", "ward", first, second, 1.0))
    inspected = json.loads(hansa("client", "inspect", "--work", work, "--json").stdout)
    assert (inspected["key"], inspected["next_key"], inspected["former_keys"]) == (told["next"], "", [first.public])
