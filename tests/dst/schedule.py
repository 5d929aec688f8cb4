"""What happens in one simulation, drawn from its seed: the network's shape, the session, and what goes wrong when."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dst.net import Profile
from hansa.messages import EvaluationRules, RoundRules, RunSpec, Value
from hansa.store.records import SessionState

__all__ = ["ASYNCHRONOUS", "KINDS", "Fault", "Plan", "draw", "is_asynchronous"]

CONTROLLER, STANDBY = "controller", "standby"
LEASE, DEADLINE = 10.0, 480.0
ENDED = (SessionState.FINISHED, SessionState.FAILED, SessionState.STOPPED)

HARMLESS = frozenset({"raise", "hang", "nan", "heavy", "prune"})
"""Kinds of faults by which no server loses what it has been told."""

ASYNCHRONOUS = 10**9
"""The first of the seeds whose sessions are asynchronous."""

_KEEPS = (None, "all, aggregates", "last 1", "last 2, aggregates", "best train loss min", "last 1, best train loss max")
_SMALL = 0.75
"""Share of the networks that are small: what a few nodes can get into shows there, in a third of the time."""

SHAPES: Mapping[str, Mapping[str, str]] = {
    "root": {},
    "flat": {"west": "", "east": ""},
    "deep": {"west": "", "east": "", "north": "west"},
}
"""Combiners with their parents."""

KINDS = (
    "kill",
    "gone",
    "power",
    "pause",
    "reset",
    "cut",
    "one-way",
    "slow",
    "trip",
    "trip an upload",
    "trip a download",
    "kill at a message",
    "kill before a step",
    "kill after a step",
    "raise",
    "hang",
    "away",
    "nan",
    "heavy",
    "stop",
    "prune",
)
"""Every kind of fault there is."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    kind: str
    at: float = 0.0
    """Virtual seconds; of a step or a message: when counting begins."""
    target: str = ""
    """A node, two nodes as one|other, or the steps of the store."""
    length: float = 0.0
    """Seconds until it is over, or until what was killed is back."""
    number: int = 0
    """Which message or step, from 1; of what user code does: the round; of prunings: how many."""

    def __str__(self) -> str:
        """For people."""
        number = f" {self.number}" if self.number else ""
        return f"{self.at:6.2f} s  {self.kind}{number} {self.target} for {self.length:.1f} s"


@dataclass(frozen=True, slots=True)
class Plan:
    """A simulation, whole: the same plan has the same history."""

    seed: int
    shape: str
    clients: int
    specs: tuple[RunSpec, ...]
    """One for each session."""
    profile: Profile
    thread_delay: float
    step: float
    """Seconds of the clock that a callback takes: what arrives meanwhile comes between two of them."""
    inline: int
    """Bytes that travel inside a frame; others go in chunks."""
    slots: int
    silence: float
    standby: bool
    """Whether a second controller waits to take over."""
    preferring: bool
    """Whether clients name the combiner that they would like."""
    keeps: tuple[str | None, ...] = ()
    """For each session, the policy by which its models are kept; none said: all."""
    faults: tuple[Fault, ...] = ()
    combiners: Mapping[str, str] = field(default_factory=dict)

    @property
    def heals(self) -> float:
        """When the last fault is over."""
        return max((fault.at + fault.length for fault in self.faults), default=0.0)


def draw(seed: int) -> Plan:
    """The plan of a seed; from `ASYNCHRONOUS` on its sessions are."""
    if seed < ASYNCHRONOUS:
        return _drawn(seed)
    plan = _drawn(seed - ASYNCHRONOUS)
    rng = random.Random(f"asynchronous {seed}")  # noqa: S311 - a simulation
    return replace(plan, seed=seed, specs=tuple(_asynchronous(rng, spec, plan.clients) for spec in plan.specs))


def _drawn(seed: int) -> Plan:
    rng = random.Random(f"plan {seed}")  # noqa: S311 - a simulation
    shape = rng.choice(["flat", "flat", "deep", "root"])
    small = rng.random() < _SMALL
    clients = rng.randint(2, 4) if small else rng.randint(4, 8)
    combiners = SHAPES[shape]
    latency = rng.choice([0.001, 0.005, 0.03])
    transfers = rng.random() < 0.6
    plan = Plan(
        seed=seed,
        shape=shape,
        clients=clients,
        specs=tuple(_spec(rng, number, clients, small=small) for number in range(rng.choice([1, 1, 1, 2]))),
        profile=Profile(latency, rng.choice([0.0, 0.01, 0.05]), 256 if transfers else 1 << 16),
        thread_delay=rng.choice([0.0, 0.002, 0.05]),
        step=0.0,
        inline=64 if transfers else 1 << 16,
        slots=rng.choice([1, 2, 2, 4]),
        silence=rng.choice([8.0, 15.0]),
        preferring=rng.random() < 0.5,
        combiners=combiners,
        standby=rng.random() < 0.3,
    )
    count = rng.choice([0, 1, 1, 2, 2, 3, 4, 6, 9])
    faults = sorted((_fault(rng, plan) for _ in range(count)), key=lambda fault: fault.at)
    step = random.Random(f"step {seed}").choice([0.0, 2e-5, 1e-3])  # noqa: S311 - a simulation
    keeping = random.Random(f"keep {seed}")  # noqa: S311 - a simulation
    keeps = tuple(keeping.choice(_KEEPS) for _ in plan.specs)
    return replace(plan, faults=tuple(faults), step=step, keeps=keeps)


def is_asynchronous(spec: RunSpec) -> bool:
    """Whether its clients do not wait for each other."""
    return spec.algorithm in ("fedbuff", "fedasync")


def _asynchronous(rng: random.Random, spec: RunSpec, clients: int) -> RunSpec:
    size = rng.randint(1, clients)
    most = rng.choice([None, None, 0, 1, 3])
    shared: dict[str, Value] = {} if most is None else {"max_staleness": most}
    algorithm, options = rng.choice([("fedbuff", {"buffer": size}), ("fedbuff", {"buffer": size}), ("fedasync", {})])
    size = size if algorithm == "fedbuff" else 1
    quorum = min(spec.rules.quorum, size)
    rules = replace(spec.rules, quorum=quorum, enough=None, replace_failed=True)
    return replace(
        spec, algorithm=algorithm, algorithm_options=options | shared, rounds=2 * spec.rounds + 1, rules=rules
    )


def _spec(rng: random.Random, number: int, clients: int, *, small: bool) -> RunSpec:
    quorum = rng.randint(1, max(1, clients - 1))
    some = rng.random() < 0.3
    rules = RoundRules(
        selection="count" if some else "all",
        count=rng.randint(quorum, clients) if some else None,
        min_clients=rng.randint(quorum, clients),
        quorum=quorum,
        enough=rng.choice([None, None, min(clients, quorum + 1)]),
        deadline=DEADLINE,
        lease=LEASE,
        replace_failed=rng.random() < 0.8,
    )
    algorithm, options = rng.choice(
        [("fedavg", {}), ("fedadam", {"learning_rate": 0.1}), ("scaffold", {"num_clients": clients})]
    )
    return RunSpec(
        name=f"session-{number}",
        algorithm=algorithm,
        algorithm_options=options,
        rounds=rng.randint(1, 2) if small else rng.randint(2, 4),
        seed=rng.randrange(2**31),
        rules=rules,
        evaluation=EvaluationRules(every=rng.choice([0, 1, 2]), central=False),
    )


def _fault(rng: random.Random, plan: Plan) -> Fault:  # noqa: PLR0911 - one case for each kind
    clients = [f"client-{i}" for i in range(plan.clients)]
    servers = [CONTROLLER, *plan.combiners]
    at = round(rng.uniform(0.2, 12.0 * plan.specs[0].rounds), 3)
    kind = rng.choice(KINDS)
    node = rng.choice([*servers, *servers, rng.choice(clients)])
    length = round(rng.choice([rng.uniform(0.05, 2.0), rng.uniform(2.0, 20.0), rng.uniform(10.0, 60.0)]), 3)
    match kind:
        case "kill" | "power" | "pause":
            return Fault(kind, at, node, length)
        case "reset" | "cut" | "one-way" | "slow" | "trip" | "kill at a message":
            one, other = _link(rng, plan, clients)
            number = rng.randint(1, 40) if kind in ("trip", "kill at a message") else rng.randint(20, 400)
            return Fault(kind, at, f"{one}|{other}", 0.0 if kind == "reset" else length, number)
        case "trip an upload" | "trip a download":
            one, other = _link(rng, plan, clients)
            return Fault(kind, at, f"{one}|{other}", 0.0, rng.randint(1, 9))
        case "kill before a step" | "kill after a step":
            step = rng.choice(["put", "commit", "commit", "object", "object", "prune", "delete", "removed"])
            return Fault(kind, at, step, length, rng.randint(1, 4))
        case "gone":
            return Fault(kind, at, rng.choice(clients))
        case "away":
            return Fault(kind, at, "store", min(length, 15.0))
        case "prune":
            return Fault(kind, at, "operator", number=rng.choice([1, 5, 40]))
        case "stop":
            return Fault(kind, at, f"session-{rng.randrange(len(plan.specs))}", length)
        case _:
            return Fault(kind, 0.0, rng.choice(clients), 0.0, rng.randint(1, plan.specs[0].rounds))


def _link(rng: random.Random, plan: Plan, clients: Sequence[str]) -> tuple[str, str]:
    """Two nodes that may have something to say to each other."""
    below = {**{name: parent or CONTROLLER for name, parent in plan.combiners.items()}}
    lower = rng.choice([*below, rng.choice(clients), rng.choice(clients)] if below else list(clients))
    if lower in below:
        return lower, below[lower]
    return lower, rng.choice([CONTROLLER, *below])
