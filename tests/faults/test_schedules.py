"""Schedules are drawn from seeds, and made smaller when they fail."""

from faults.points import Fault
from faults.schedules import Action, Schedule, draw, shrink


def test_a_seed_gives_one_schedule_and_seeds_give_every_kind_of_fault() -> None:
    assert draw(7) == draw(7)
    drawn = [action for seed in range(400) for action in draw(seed).actions]
    assert {"arm", "kill", "stop", "partition", "half-open", "slow", "reset", "reset-after"} == {a.kind for a in drawn}
    armed = {action.fault.do for action in drawn if action.fault is not None}
    assert armed == {"kill", "stop", "clock", "kcolc", "again", "late", "EIO", "ENOSPC"}
    assert {action.who.partition("-")[0] for action in drawn} == {"controller", "combiner", "client"}


def test_a_process_holds_one_fault_at_a_time() -> None:
    for seed in range(400):
        armed = [action.who for action in draw(seed).actions if action.kind == "arm"]
        assert len(armed) == len(set(armed))


def test_a_failing_schedule_is_made_as_small_as_it_still_fails() -> None:
    guilty = Action("kill", "combiner-0", 0.5), Action("arm", "client-1", fault=Fault("outbox.keep"))
    others = tuple(Action("reset", "controller", float(at)) for at in range(3))

    def fails(schedule: Schedule) -> list[str]:
        return ["I1: lost"] if set(guilty) <= set(schedule.actions) else []

    assert shrink(Schedule(0, (*others[:2], *guilty, others[2])), fails) == Schedule(0, guilty)
