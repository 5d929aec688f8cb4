"""Many seeds on many cores, and a failing one made small."""

import gc
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from dst.checker import check
from dst.plants import PLANTS
from dst.schedule import Plan, draw
from dst.simulation import simulate
from dst.world import World

__all__ = ["Figures", "Verdict", "alone", "judge", "reproduction", "shrunk", "sweep", "verdict_on"]

_BATCHES = 5
"""Batches that one child process runs: what was killed in them is never freed, see `loop`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one simulation came to."""

    seed: int
    wrong: tuple[str, ...]
    history: str
    """Digest of the whole history."""
    faults: Counter[str]
    rounds: int
    sessions: Counter[str]
    """By state at the end."""
    seconds: float
    """Virtual."""
    cpu: float
    """Real seconds of a core."""
    steps: int
    messages: int


@dataclass(slots=True)
class Figures:
    """Of a sweep."""

    schedules: int = 0
    rounds: int = 0
    sessions: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    virtual: float = 0.0
    cpu: float = 0.0
    steps: int = 0
    messages: int = 0
    failing: list[Verdict] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        """Count one more."""
        self.schedules += 1
        self.rounds += verdict.rounds
        self.sessions += verdict.sessions
        self.faults += verdict.faults
        self.virtual += verdict.seconds
        self.cpu += verdict.cpu
        self.steps += verdict.steps
        self.messages += verdict.messages
        if verdict.wrong:
            self.failing.append(verdict)

    def line(self, wall: float) -> str:
        """The totals, for people. wall: real seconds that it took."""
        return (
            f"{self.schedules:,} schedules, {self.rounds:,} rounds committed, {sum(self.faults.values()):,} faults, "
            f"{self.virtual / 3600:,.1f} virtual hours; {len(self.failing)} schedules violate an invariant; "
            f"{60 * self.schedules / max(wall, 0.001):,.0f} schedules a minute, "
            f"{60 * self.schedules / max(self.cpu, 0.001):,.0f} in a minute of a core"
        )

    def lines(self, wall: float) -> Iterator[str]:
        """The totals and what they are made of."""
        yield self.line(wall)
        yield f"sessions: {_counts(self.sessions)}; {self.messages:,} messages, {self.steps:,} callbacks"
        yield f"faults: {_counts(self.faults)}"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{what} {number:,}" for what, number in sorted(counter.items()))


def judge(plan: Plan, plant: str = "", *, verbose: bool = False) -> tuple[Verdict, World]:
    """Run a plan and check it. plant: a known bug to put into the product before."""
    began = time.process_time()
    planted: AbstractContextManager[None] = PLANTS[plant].planted() if plant else nullcontext()
    with planted:
        world = simulate(plan, _scratch(), verbose=verbose)
    wrong = tuple(check(world))
    records = [world.session(name) for name in world.sessions]
    return (
        Verdict(
            seed=plan.seed,
            wrong=wrong,
            history=world.history.digest(),
            faults=world.history.faults,
            rounds=sum(record.round for record in records),
            sessions=Counter(record.state.value for record in records),
            seconds=world.loop.now,
            cpu=time.process_time() - began,
            steps=world.loop.steps,
            messages=world.network.messages,
        ),
        world,
    )


def sweep(
    seeds: Sequence[int],
    jobs: int,
    *,
    plant: str = "",
    seconds: float = float("inf"),
    enough: int = 10**9,
    batch: int = 20,
    method: str = "fork",
    on_batch: Callable[[Figures, Sequence[Verdict]], None] = lambda _figures, _verdicts: None,
) -> Figures:
    """Run seeds, each batch in a process of its own. seconds: begin no batch later; enough: stop after so many fail.

    batch: seeds that a child is given at a time; method: how it is made; where there are threads, "spawn"; on_batch:
    told of every batch, and of the figures with it.
    """
    figures = Figures()
    until = time.monotonic() + seconds
    batches = [(plant, seeds[i : i + batch], until) for i in range(0, len(seeds), batch)]
    with multiprocessing.get_context(method).Pool(jobs, _begin, maxtasksperchild=_BATCHES) as pool:
        for verdicts in pool.imap_unordered(_judge_batch, batches):
            for verdict in verdicts:
                figures.add(verdict)
            on_batch(figures, verdicts)
            if len(figures.failing) >= enough:
                pool.terminate()
                break
    return figures


def shrunk(plan: Plan, plant: str = "") -> Plan:
    """A plan that violates the same invariant with as few faults as dropping them one by one can leave."""
    wanted = _invariants(alone(plan, plant))
    smaller = True
    while smaller:
        smaller = False
        for i in range(len(plan.faults)):
            fewer = replace(plan, faults=plan.faults[:i] + plan.faults[i + 1 :])
            if wanted & _invariants(alone(fewer, plant)):
                plan, smaller = fewer, True
                break
    return plan


def reproduction(plan: Plan, plant: str = "") -> str:
    """One line for a shell."""
    whole = draw(plan.seed).faults
    kept = [i for i, fault in enumerate(whole) if fault in plan.faults]
    only = "" if len(kept) == len(whole) else f" --only {','.join(map(str, kept)) or 'none'}"
    return f'make dst ARGS="--seed {plan.seed}{only}{f" --plant {plant}" if plant else ""}"'


def alone(plan: Plan, plant: str = "", method: str = "fork") -> Verdict:
    """Judge a plan in a process of its own."""
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.apply(verdict_on, ((plan, plant),))


def verdict_on(case: tuple[Plan, str]) -> Verdict:
    """Judge (plan, plant), in a process that is thrown away afterwards."""
    return judge(*case)[0]


def _begin() -> None:
    """A child is thrown away before its garbage would matter."""
    gc.disable()


def _judge_batch(batch: tuple[str, Sequence[int], float]) -> list[Verdict]:
    plant, seeds, until = batch
    return [judge(draw(seed), plant)[0] for seed in seeds if time.monotonic() < until]


def _invariants(verdict: Verdict) -> set[str]:
    return {said.partition(":")[0] for said in verdict.wrong}


def _scratch() -> Path:
    """In memory, where there is such a place."""
    shared = Path("/dev/shm")  # noqa: S108 - folders in it are made with mkdtemp
    return shared if shared.is_dir() else Path("/tmp")  # noqa: S108 - the same
