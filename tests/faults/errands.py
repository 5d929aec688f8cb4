"""What a laboratory is given to do: a place where the sweep kills, or a schedule."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from faults.campaign import Bench, Finding
from faults.points import CLIENT, COMBINER, CONTROLLER, MOMENTS, TURNS, Fault
from faults.schedules import Schedule, draw, judge
from faults.syscalls import Injection, traced
from faults.workload import ROUNDS

__all__ = ["VICTIMS", "Place", "injected", "places", "scheduled", "swept"]

VICTIMS = {CONTROLLER: "controller", COMBINER: "", CLIENT: "client-3"}
"""By kind; of the combiners, the one with the most clients at the time."""
_LONG = 8
"""Letters of the name of an object's file; its folders have fewer."""
_MISSES = 2
"""Passages in a row that are not reached before the sweep goes on: who sends what in which order is not the same."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the sweep kills a kind of process."""

    kind: str
    point: str
    moment: str

    def __str__(self) -> str:
        return f"{self.kind} {self.moment} {self.point}"


def places(kinds: Sequence[str]) -> list[Place]:
    """All of these kinds; the durable steps, of which there are most, first."""
    points = [(kind, point) for kind in kinds for point in TURNS[kind]]
    durable = [(kind, "durable") for kind in kinds if kind != COMBINER]
    return [Place(kind, point, moment) for kind, point in (*durable, *points) for moment in MOMENTS]


def swept(bench: Bench, place: Place) -> Finding:
    """Kill a process at each passage of a place, in a session for each."""
    kills, missed, passage = 0, 0, 0
    flaws: list[str] = []
    while missed < _MISSES and not flaws:
        passage += 1
        lab = bench.lab()
        victim = VICTIMS[place.kind] or lab.busiest()
        lab.arm(victim, Fault(place.point, place.moment, passage))
        name = f"{victim}-{place.point}-{place.moment}-{passage}"
        flaws = judge(lab, Schedule(0, ()), name)
        struck = lab.struck(victim)
        if not struck:
            lab.disarm(victim)
        kills, missed = kills + struck, 0 if struck else missed + 1
    if not kills and not flaws:
        flaws = [f"{place} is never passed: the sweep has shown nothing there"]
    what = f"{place}" + (f" {passage}" if flaws else "")
    drawn = Counter({place.kind: kills})
    return Finding(what, passage, ROUNDS * passage, drawn, drawn, tuple(flaws), bench.folder)


def scheduled(bench: Bench, seed: int) -> Finding:
    """One schedule."""
    lab = bench.lab()
    schedule = draw(seed)
    struck, rounds = lab.strikes(), lab.rounds()
    flaws = judge(lab, schedule, f"seed-{seed}")
    drawn = Counter(f"{each.fault.do} at a point" if each.fault else each.kind for each in schedule.actions)
    struck, rounds = lab.strikes() - struck, lab.rounds() - rounds
    return Finding(f"seed {seed}", 1, rounds, drawn, struck, tuple(flaws), bench.folder)


def injected(bench: Bench, injection: Injection) -> Finding:
    """Kill a process at its N-th system call, in a session for each N, until one runs through."""
    struck: Counter[str] = Counter()
    flaws: list[str] = []
    first, sessions, missed = 1, 0, 0
    while missed < _MISSES and not flaws:
        lab = bench.lab()
        victim = VICTIMS[injection.kind] or lab.busiest()
        sessions += 1
        name = f"{injection.kind}-{injection.calls.replace(',', '.')}-{first}"
        with traced(lab, victim, replace(injection, first=first)) as tracer:
            flaws = judge(lab, Schedule(0, ()), name)
        hit = tracer.killed()
        if hit:
            call, path = tracer.calls()[-1]
            struck[f"{injection.kind} at {call} of {_what_is(path)}"] += 1
        missed = 0 if hit else missed + 1
        first += injection.stride
    if not struck and not flaws and injection.kind != COMBINER:
        flaws = [f"{injection}: there is no such call, and the sweep has shown nothing"]
    what = f"{injection}" + (f", number {first - injection.stride}" if flaws else "")
    return Finding(what, sessions, ROUNDS * sessions, struck, struck, tuple(flaws), bench.folder)


def _what_is(path: str) -> str:
    """A file of a node, in a word: hansa.db-wal, ledger.jsonl, outbox, an object or its folder."""
    parts = PurePath(path).parts
    if "objects" in parts:
        return "an object" if parts[-2] in ("incoming", "objects") and len(parts[-1]) > _LONG else "its folders"
    return "outbox" if "outbox" in parts else parts[-1]
