"""A few of the laboratory's faults, in real processes; `make faults` has them all."""

from collections.abc import Iterator

import pytest
from cases import slow

import hansa
from faults.checker import check
from faults.lab import Lab, laboratory
from faults.plants import PLANTS
from faults.points import Fault
from faults.schedules import Action, Schedule, brought_out, draw, judge, planted
from faults.syscalls import Injection, traced, untraceable
from faults.workload import CLIENTS, spec_of
from hansa.store.records import SessionState

KILLS = [
    slow("controller", Fault("durable", "before", 4)),
    ("controller", Fault("durable", "after", 11)),
    ("controller", Fault("store.commit", "after", 2)),  # committed, and nobody knows
    slow("controller", Fault("phase.merge", "after", 3)),
    slow("combiner", Fault("upload.write", "after", 5)),
    ("combiner", Fault("hub.answer", "before", 9)),  # folded, and not acknowledged
    slow("combiner", Fault("node.deliver", "before", 3)),
    slow("client-3", Fault("durable", "after", 5)),
    ("client-5", Fault("outbox.keep", "after", 2)),
]
CALLS = [
    ("controller", Injection("controller", "fdatasync", first=7)),
    slow("client-3", Injection("client", "fsync", first=3)),
]
DISKS = [
    Injection("controller", "pwrite64", "error=ENOSPC", first=30, onwards=True),
    slow(Injection("controller", "fsync", "error=EIO", first=5, onwards=True)),
]
STANDS = Schedule(3, (Action("stop", "combiner-1", 0.1, 4.0), Action("half-open", "controller", 0.3, 2.0)))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(tmp_path_factory.mktemp("lab")) as made:
        made.ready()
        yield made


@pytest.mark.parametrize(("victim", "fault"), KILLS, ids=lambda part: getattr(part, "point", part))
def test_a_session_outlives_a_kill_with_the_model_of_a_simulation(lab: Lab, victim: str, fault: Fault) -> None:
    lab.ready()
    victim = lab.busiest() if victim == "combiner" else victim
    lab.arm(victim, fault)
    spec = spec_of(f"{victim}-{fault.point}-{fault.moment}")
    ended = lab.end(lab.begin(spec))
    assert lab.struck(victim)
    assert ended.model == hansa.simulate(lab.app, spec, clients=CLIENTS).model_hash


@pytest.fixture
def strace() -> None:
    reason = untraceable()
    if reason:
        pytest.skip(reason)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(("victim", "injection"), CALLS, ids=str)
def test_a_session_outlives_a_kill_at_a_system_call(lab: Lab, victim: str, injection: Injection) -> None:
    lab.ready()
    deaths, spec = lab.nodes[victim].deaths, spec_of(f"{victim}-{injection.calls}")
    with traced(lab, victim, injection) as tracer:
        ended = lab.end(lab.begin(spec))
    assert tracer.killed()
    assert tracer.calls()[-1][0] == injection.calls
    assert lab.nodes[victim].deaths == deaths + 1
    assert ended.model == hansa.simulate(lab.app, spec, clients=CLIENTS).model_hash


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("injection", DISKS, ids=lambda each: each.words)
def test_a_session_whose_controller_cannot_write_says_so_and_goes_on_after_a_restart(
    lab: Lab, injection: Injection
) -> None:
    lab.ready()
    spec = spec_of(f"disk-{injection.calls}")
    session = lab.begin(spec)
    with traced(lab, "controller", injection) as tracer:
        assert lab.await_words(session, "waits for storage")
        refused = tracer.refused()
        assert lab.ask(lambda api: api.sessions.get(session.id)).state is SessionState.RUNNING
        lab.kill("controller")
    assert refused
    assert lab.end(session).model == hansa.simulate(lab.app, spec, clients=CLIENTS).model_hash


@pytest.mark.parametrize("schedule", [STANDS, slow(draw(5))], ids=["who stands still", "seed 5"])
def test_a_session_outlives_a_schedule(lab: Lab, schedule: Schedule) -> None:
    assert judge(lab, schedule, f"schedule-{schedule.seed}") == []


def test_no_invariant_was_broken_by_any_of_it(lab: Lab) -> None:
    assert check(lab.history(), lab.app) == []


def test_a_planted_bug_is_found(lab: Lab) -> None:
    """After all others: what this laboratory does from here on is wrong."""
    lab.ready()
    assert check(lab.history(), lab.app) == []
    lab.plant("forgets-the-optimizer")
    assert brought_out(lab, "forgets-the-optimizer")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTS)
def test_every_planted_bug_is_found(name: str) -> None:
    assert planted(name)
