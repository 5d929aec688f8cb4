"""A checker that finds nothing in a clean history, and in each spoilt one just what was spoilt."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from faults.checker import CHECKS, check
from faults.history import History, Session
from faults.workload import CLIENTS, KEPT, ROUNDS, Replay, keep_of, spec_of, write_app
from hansa.store.link import ACCEPTED, round_link
from hansa.store.records import ContributionRecord, ModelRecord, RoundRecord, SessionRecord, SessionState

EVERYBODY = {f"client-{i}": 10 + i for i in range(CLIENTS)}
RUN = "session"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_app(tmp_path_factory.mktemp("workload"), size=1000)


@pytest.fixture(scope="module")
def clean(app: Path) -> History:
    """What a session leaves in which nothing went wrong, and which keeps its newest models."""
    spec = spec_of("clean")
    replay = Replay(app, spec)
    rounds: list[RoundRecord] = []
    contributions: list[ContributionRecord] = []
    models: list[ModelRecord] = []
    notes = []
    parent, link = replay.seed_model(), ""
    for number, (model, state, digests) in enumerate(replay.models([EVERYBODY] * ROUNDS), start=1):
        parts = [
            ContributionRecord(f"{RUN}/{number}/{name}", "p", RUN, number, name, ACCEPTED, weight, digests[name])
            for name, weight in EVERYBODY.items()
        ]
        record = RoundRecord(
            f"{RUN}/{number}",
            "p",
            RUN,
            number,
            parent,
            model,
            state,
            CLIENTS,
            0,
            0,
            0,
            sum(EVERYBODY.values()),
            0.0,
            1.0,
            broadcast=parent,
            aggregate=f"{number:064x}",
            aggregate_weight=sum(EVERYBODY.values()),
        )
        link = round_link(link, record, parts)
        pruned_at = 2.0 if number <= ROUNDS - KEPT else None
        rounds.append(replace(record, link=link, state_pruned_at=pruned_at, aggregate_pruned_at=pruned_at))
        models.append(ModelRecord(model, "p", RUN, number, parent, 8, 1.0, pruned_at=pruned_at))
        contributions += parts
        parent = model
        for name, digest in digests.items():
            where = {"process": name, "run": RUN, "round": number, "kind": "train", "digest": digest}
            notes += [{"what": "kept", **where}, {"what": "verdict", **where, "accepted": True, "reason": ""}]
    record = SessionRecord(
        RUN, "p", "clean", spec, SessionState.FINISHED, 0.0, cause="done", round=ROUNDS, model=parent,
        seed_model=replay.seed_model(), keep=keep_of(spec),
    )  # fmt: skip
    stored = frozenset(digest for each in rounds[-KEPT:] for digest in (each.model, each.state, each.aggregate or ""))
    left = Session(record, tuple(rounds), tuple(contributions), tuple(models), stored)
    return History((left,), tuple(notes), unneeded=())


def session(history: History, **changes: object) -> History:
    """With another row of the session."""
    (only,) = history.sessions
    return replace(history, sessions=(replace(only, record=replace(only.record, **changes)),))


def rounds(history: History, number: int, **changes: object) -> History:
    """With another row of a round."""
    (only,) = history.sessions
    changed = tuple(replace(each, **changes) if each.number == number else each for each in only.rounds)
    return replace(history, sessions=(replace(only, rounds=changed),))


def parts(history: History, change: Callable[[list[ContributionRecord]], object]) -> History:
    """With other contributions."""
    (only,) = history.sessions
    changed = list(only.contributions)
    change(changed)
    return replace(history, sessions=(replace(only, contributions=tuple(changed)),))


def model(history: History, number: int, **changes: object) -> History:
    """With another row of a model."""
    (only,) = history.sessions
    changed = tuple(replace(each, **changes) if each.round == number else each for each in only.models)
    return replace(history, sessions=(replace(only, models=changed),))


def without(history: History, digest: str) -> History:
    """With an object lost."""
    (only,) = history.sessions
    return replace(history, sessions=(replace(only, stored=only.stored - {digest}),))


def noted(history: History, **note: object) -> History:
    """With another line of a process."""
    return replace(history, notes=(*history.notes, {"process": "client-1", "run": RUN, "kind": "train", **note}))


SPOILT: dict[str, tuple[str, Callable[[History], History]]] = {
    "an acknowledged update is not in the round": (
        "I1",
        lambda h: noted(h, what="verdict", round=2, accepted=True, reason="", digest="of another update"),
    ),
    "a refusal without a reason": (
        "I1",
        lambda h: noted(h, what="verdict", round=2, accepted=False, reason="", digest=""),
    ),
    "a client that is missing for no reason": (
        "I1",
        lambda h: parts(h, lambda p: p.append(ContributionRecord("x", "p", RUN, 1, "client-9", "missing"))),
    ),
    "an update was trained again": ("I1 once", lambda h: noted(h, what="kept", round=1, digest="d")),
    "an update counts twice": ("I2", lambda h: parts(h, lambda p: p.append(replace(p[3], id="again")))),
    "a round counts more than it has": ("I2", lambda h: rounds(h, 3, accepted=CLIENTS + 1)),
    "the denominator is too large": ("I3", lambda h: rounds(h, 3, weight=1)),
    "a round is lost": (
        "I4",
        lambda h: replace(h, sessions=(replace(h.sessions[0], rounds=h.sessions[0].rounds[1:]),)),
    ),
    "a model is another": ("I4", lambda h: rounds(h, ROUNDS, model="0" * 64)),
    "a chain begins anew": ("I4", lambda h: rounds(h, 3, link="0" * 64)),
    "a model is not on the disk": ("I4", lambda h: without(h, h.sessions[0].rounds[-1].model)),
    "a state is not on the disk": ("I4", lambda h: without(h, h.sessions[0].rounds[-1].state)),
    "an aggregate is not on the disk": ("I4", lambda h: without(h, h.sessions[0].rounds[-1].aggregate or "")),
    "the session is behind its rounds": ("I4", lambda h: session(h, round=ROUNDS - 1)),
    "the last model is not that of a simulation": ("I5", lambda h: session(h, model="0" * 64)),
    "a session still runs": ("I6", lambda h: session(h, state=SessionState.RUNNING)),
    "a session has failed": ("I6", lambda h: session(h, state=SessionState.FAILED)),
    "a session does not say why it ended": ("I6", lambda h: session(h, cause="")),
    "a session has finished too early": ("I6", lambda h: session(h, round=ROUNDS - 1)),
    "a process ended by itself": ("I6", lambda h: replace(h, exits={"client-2": (1,)})),
    "bytes that the client did not learn here": (
        "I7",
        lambda h: parts(h, lambda p: p.__setitem__(0, replace(p[0], digest="of another run"))),
    ),
    "a token in a log": ("I9", lambda h: replace(h, leaks=("client-1.log",))),
    "half a download": ("I10", lambda h: replace(h, left=("work/client-1/objects/x.part",))),
    "a model is given up that is kept": ("retention", lambda h: model(h, ROUNDS - 1, pruned_at=2.0)),
    "a state is given up that is kept": ("retention", lambda h: rounds(h, ROUNDS, state_pruned_at=2.0)),
    "an aggregate is given up that is kept": ("retention", lambda h: rounds(h, ROUNDS, aggregate_pruned_at=2.0)),
    "an aggregate is not kept": ("retention", lambda h: rounds(h, ROUNDS, aggregate=None)),
    "a session that keeps all gives something up": ("retention", lambda h: session(h, keep=None)),
    "a model is kept that is given up": ("retention", lambda h: model(h, 1, pruned_at=None)),
    "bytes are left that nobody needs": ("retention", lambda h: replace(h, unneeded=("0" * 64,))),
}


def test_a_clean_history_has_no_flaw(clean: History, app: Path) -> None:
    assert check(clean, app) == []


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_history_is_found_out_by_its_invariant(case: str, clean: History, app: Path) -> None:
    invariant, spoil = SPOILT[case]
    flaws = check(spoil(clean), app)
    assert invariant in {flaw.partition(":")[0] for flaw in flaws}, flaws


def test_every_invariant_has_a_history_that_breaks_it() -> None:
    assert {invariant for invariant, _ in SPOILT.values()} == CHECKS.keys()
