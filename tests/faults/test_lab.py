"""A few of the laboratory's faults, in real processes; `make faults` has them all."""

from collections.abc import Iterator

import pytest

import hansa
from faults.checker import check
from faults.lab import Lab, laboratory
from faults.plants import PLANTS
from faults.points import Fault
from faults.schedules import Action, Schedule, draw, judge, planted
from faults.workload import CLIENTS, spec_of

KILLS = [
    ("controller", Fault("durable", "before", 4)),
    ("controller", Fault("durable", "after", 11)),
    ("controller", Fault("store.commit", "after", 2)),  # committed, and nobody knows
    ("controller", Fault("phase.merge", "after", 3)),
    ("combiner", Fault("upload.write", "after", 5)),
    ("combiner", Fault("hub.answer", "before", 9)),  # folded, and not acknowledged
    ("combiner", Fault("node.deliver", "before", 3)),
    ("client-3", Fault("durable", "after", 5)),
    ("client-5", Fault("outbox.keep", "after", 2)),
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


@pytest.mark.parametrize("schedule", [STANDS, draw(5)], ids=["who stands still", "seed 5"])
def test_a_session_outlives_a_schedule(lab: Lab, schedule: Schedule) -> None:
    assert judge(lab, schedule, f"schedule-{schedule.seed}") == []


def test_no_invariant_was_broken_by_any_of_it(lab: Lab) -> None:
    assert check(lab.history(), lab.app) == []


def test_a_planted_bug_is_found() -> None:
    assert planted("forgets-the-optimizer")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTS)
def test_every_planted_bug_is_found(name: str) -> None:
    assert planted(name)
