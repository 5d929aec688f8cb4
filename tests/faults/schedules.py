"""Fault schedules: what happens to whom and when, drawn from a seed; run, judged, and made smaller when they fail."""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from faults.checker import check
from faults.lab import Lab, StuckError, laboratory
from faults.plants import PLANTS
from faults.points import CLIENT, COMBINER, CONTROLLER, MOMENTS, TURNS, WRITES, Fault
from faults.proxy import Weather
from faults.workload import CLIENTS, COMBINERS, spec_of

__all__ = ["Action", "Schedule", "brought_out", "draw", "judge", "judged_alone", "planted", "shrink"]

_REPEATABLE = ("agent.open", "agent.judged", "agent.close", "hub.offered", "hub.answer")
_IN_ORDER = ("agent.open",)
"""What never comes late: on one stream no frame overtakes another, and the end of the round is such a frame."""

_OUTSIDE = ("kill", "stop", "partition", "half-open", "slow", "reset", "reset-after")
_KINDS = (*(["arm"] * 3), *(["disk"] * 2), *_OUTSIDE)


@dataclass(frozen=True, slots=True)
class Action:
    """One fault. `at` and `during`: seconds after the session's start, and of its length, where it has one."""

    kind: str
    """arm, kill, stop, release, partition, half-open, slow, reset or reset-after."""
    who: str
    at: float = 0.0
    during: float = 0.0
    fault: Fault | None = None
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is done to one session."""

    seed: int
    actions: tuple[Action, ...]


def draw(seed: int) -> Schedule:
    """The schedule of a seed: one to five faults, of every kind there is."""
    rng = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    nodes = [CONTROLLER, *(f"{COMBINER}-{i}" for i in range(COMBINERS)), *(f"{CLIENT}-{i}" for i in range(CLIENTS))]
    weights = [4, *([3] * COMBINERS), *([1] * CLIENTS)]
    actions: list[Action] = []
    armed: set[str] = set()
    for _ in range(rng.randint(1, 5)):
        (who,) = rng.choices(nodes, weights)
        kind = rng.choice(_KINDS)
        at, during = round(rng.uniform(0, 2), 2), round(rng.uniform(0.1, 5), 2)
        if kind in ("arm", "disk"):
            if who not in armed:  # a process holds one fault
                armed.add(who)
                actions.append(Action("arm", who, fault=(_fault if kind == "arm" else _disk_fault)(rng, who)))
        elif kind in ("kill", "stop"):
            actions.append(Action(kind, who, at, during))
        else:
            server = rng.choice([CONTROLLER, *(f"{COMBINER}-{i}" for i in range(COMBINERS))])
            actions.append(Action(kind, server, at, during, bytes=rng.randrange(1, 20_000_000)))
    return Schedule(seed, tuple(actions))


def _fault(rng: random.Random, who: str) -> Fault:
    kind = who.partition("-")[0]
    points = [*TURNS[kind], *(["durable"] * 4 if kind != COMBINER else [])]
    point = rng.choice(points)
    do = rng.choice(["kill", "kill", "kill", "stop", "clock", "kcolc"])
    if point in _REPEATABLE and rng.random() < 0.4:
        passage, do = rng.randint(1, 6), rng.choice(["again", "late"])
        return Fault(point, "before", passage, "again" if point in _IN_ORDER else do)
    return Fault(point, rng.choice(MOMENTS), rng.randint(1, 30 if point in ("durable", "upload.write") else 6), do)


def _disk_fault(rng: random.Random, who: str) -> Fault:
    """A disk that refuses one write, or some in a row."""
    kind = who.partition("-")[0]
    point = rng.choice(WRITES[kind])
    if point == "worker.fsync":
        moment, passage = "before", 1
    else:
        moment, passage = rng.choice(MOMENTS), rng.randint(1, 20 if kind == CONTROLLER else 4)
    return Fault(point, moment, passage, rng.choice(["EIO", "ENOSPC"]), times=rng.choice([1, 1, 2, 5]))


def carry_out(lab: Lab, schedule: Schedule, name: str) -> None:
    """Run one session under a schedule; raises `StuckError` when it does not end."""
    for action in schedule.actions:
        if action.fault is not None:
            lab.arm(action.who, action.fault)
    session = lab.begin(spec_of(name, seed=schedule.seed % 7))
    begun = time.monotonic()
    try:
        for at, do in sorted(_moves(lab, schedule), key=lambda move: move[0]):
            time.sleep(max(0.0, begun + at - time.monotonic()))
            do()
    finally:
        lab.calm()
    lab.end(session)


def _moves(lab: Lab, schedule: Schedule) -> Iterator[tuple[float, Callable[[], object]]]:
    for action in schedule.actions:
        who, at, end = action.who, action.at, action.at + action.during
        match action.kind:
            case "kill":
                yield at, lambda who=who: lab.kill(who)
            case "stop":
                yield at, lambda who=who: lab.pause(who)
                yield end, lab.release
            case "release":
                yield at, lab.release
            case "reset":
                yield at, lambda who=who: lab.proxies[who].reset()
            case "reset-after":
                yield at, lambda who=who, count=action.bytes: lab.proxies[who].reset_after(count)
            case "partition" | "half-open" | "slow":
                weather = {
                    "partition": Weather(up=False, down=False),
                    "half-open": Weather(down=False),
                    "slow": Weather(delay=0.02, rate=2e6),
                }[action.kind]
                yield at, lambda who=who, weather=weather: lab.proxies[who].change(weather)
                yield end, lambda who=who: lab.proxies[who].change(Weather())


def judge(lab: Lab, schedule: Schedule, name: str) -> list[str]:
    """Run a schedule, and say what is wrong afterwards; sessions that had ended before are not read again."""
    try:
        carry_out(lab, schedule, name)
    except StuckError as error:
        return [f"I6: {error}"]
    return check(lab.history(anew=False), lab.app, lab.replays)


def judged_alone(schedule: Schedule, plant: str = "") -> list[str]:
    """What is wrong after this schedule, in a laboratory of its own."""
    folder = Path(tempfile.mkdtemp(prefix="hansa-lab-"))
    with laboratory(folder, plant=plant) as lab:
        found = judge(lab, schedule, f"seed-{schedule.seed}")
    if not found:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def planted(name: str) -> list[str]:
    """What is wrong in a laboratory with a known bug, after the faults that bring it out."""
    with tempfile.TemporaryDirectory(prefix="hansa-lab-") as folder, laboratory(Path(folder), plant=name) as lab:
        lab.ready()
        return brought_out(lab, name)


def brought_out(lab: Lab, name: str) -> list[str]:
    """What is wrong in a laboratory whose processes have a known bug."""
    plant = PLANTS[name]
    actions = [Action("arm", who, fault=fault) for who, fault in plant.faults]
    if plant.stopped:
        stopping = Fault("outbox.keep", "before", 1, "stop")
        actions += [Action("arm", plant.stopped, fault=stopping), Action("release", plant.stopped, 3.0)]
    found: list[str] = []
    for number in range(plant.sessions):
        found = judge(lab, Schedule(number, tuple(actions)), f"planted-{number}")
    return found


def shrink(schedule: Schedule, fails: Callable[[Schedule], Sequence[str]], tries: int = 2) -> Schedule:
    """Leave out fault after fault, as long as it still fails; tries: runs that a smaller one gets to fail."""
    for action in schedule.actions:
        smaller = replace(schedule, actions=tuple(each for each in schedule.actions if each != action))
        if smaller.actions and any(fails(smaller) for _ in range(tries)):
            schedule = smaller
    return schedule
