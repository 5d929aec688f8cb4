"""Who may send to whom: directed graphs of workers 0 … n − 1, without loops, constant or changing with time.

| topology                    | sends to                                    | source                  |
|-----------------------------|---------------------------------------------|-------------------------|
| `ring`, `torus`, `complete` | two, four, all neighbours                   |                         |
| `star`, `hubs`, `wheel`     | the hub, worker 0; several; a hub and a rim |                         |
| `random_regular`            | d neighbours drawn at random                | Steger and Wormald 1999 |
| `erdos_renyi`               | each other one with probability p           | Erdős and Rényi 1959    |
| `watts_strogatz`            | k nearest on a ring, some rewired           | Watts and Strogatz 1998 |
| `directed_ring`             | the next one                                |                         |
| `exponential`               | those at distances 1, 2, 4 …                | Assran et al. 2019      |
| `one_peer_exponential`      | one of them at a time, in turn              | arXiv:1811.10792        |
| `hierarchy`                 | root 0, group heads, their members          |                         |
| `from_edges`                | whatever is given, as a networkx graph      |                         |
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hansa.errors import ConfigError

__all__ = [
    "AnyTopology",
    "TimeVarying",
    "Topology",
    "check_connected",
    "complete",
    "directed_ring",
    "erdos_renyi",
    "exponential",
    "from_edges",
    "hierarchy",
    "hubs",
    "one_peer_exponential",
    "random_regular",
    "ring",
    "star",
    "torus",
    "watts_strogatz",
    "wheel",
]

_TRIES = 1000
"""Graphs that are drawn before it is said that none of them was connected."""


@dataclass(frozen=True)
class Topology:
    """A directed graph; it is undirected where every edge is there both ways."""

    receivers: tuple[tuple[int, ...], ...]
    """Worker → whom it sends to, ascending."""
    name: str = "topology"

    def __post_init__(self) -> None:
        """Refuse loops, double edges and workers that are not there."""
        if not self.receivers:
            raise ConfigError(f"{self.name} has no workers; it must have at least one")
        for worker, receivers in enumerate(self.receivers):
            if list(receivers) != sorted({*receivers} - {worker}) or not all(0 <= r < self.size for r in receivers):
                raise ConfigError(
                    f"{self.name}: worker {worker} sends to {receivers}; give each other worker of "
                    f"0 to {self.size - 1} at most once, ascending"
                )

    @property
    def size(self) -> int:
        """The number n of workers."""
        return len(self.receivers)

    @property
    def phases(self) -> tuple["Topology", ...]:
        """Itself: it does not change."""
        return (self,)

    def at(self, step: int) -> "Topology":
        """The graph of a step: itself."""
        del step
        return self

    @cached_property
    def senders(self) -> tuple[tuple[int, ...], ...]:
        """Worker → who sends to it, ascending."""
        senders: list[list[int]] = [[] for _ in self.receivers]
        for worker, receivers in enumerate(self.receivers):
            for receiver in receivers:
                senders[receiver].append(worker)
        return tuple(map(tuple, senders))

    @property
    def is_symmetric(self) -> bool:
        """Whether every edge is there both ways."""
        return self.receivers == self.senders

    @property
    def is_connected(self) -> bool:
        """Whether everybody can reach everybody, along the directions (strongly connected)."""
        return all(len(_reached(edges)) == self.size for edges in (self.receivers, self.senders))

    @property
    def num_edges(self) -> int:
        """Directed edges; an undirected one counts twice."""
        return sum(map(len, self.receivers))


@dataclass(frozen=True)
class TimeVarying:
    """A topology for each step, in turn and again from the first."""

    phases: tuple[Topology, ...]
    name: str = "time-varying"

    def __post_init__(self) -> None:
        """Refuse no phase, and phases of several sizes."""
        if len({phase.size for phase in self.phases}) != 1:
            raise ConfigError(
                f"{self.name} has phases of {[p.size for p in self.phases]} workers; they must have the same"
            )

    @property
    def size(self) -> int:
        """The number n of workers."""
        return self.phases[0].size

    def at(self, step: int) -> Topology:
        """The graph of a step, from 0."""
        return self.phases[step % len(self.phases)]

    @cached_property
    def union(self) -> Topology:
        """The edges of all phases together."""
        together = [sorted(set().union(*(phase.receivers[i] for phase in self.phases))) for i in range(self.size)]
        return Topology(tuple(map(tuple, together)), f"union of {self.name}")

    @property
    def receivers(self) -> tuple[tuple[int, ...], ...]:
        """Worker → whom it may send to in some phase."""
        return self.union.receivers

    @property
    def senders(self) -> tuple[tuple[int, ...], ...]:
        """Worker → who may send to it in some phase."""
        return self.union.senders

    @property
    def is_symmetric(self) -> bool:
        """Whether every phase is."""
        return all(phase.is_symmetric for phase in self.phases)

    @property
    def is_connected(self) -> bool:
        """Whether the phases together are."""
        return self.union.is_connected


AnyTopology = Topology | TimeVarying


def check_connected(topology: AnyTopology) -> None:
    """Raise `ConfigError` where somebody never hears of somebody else, over however many workers."""
    if not topology.is_connected:
        raise ConfigError(
            f"{topology.name} is not connected: some workers never hear of some others, and there would be several "
            "models; add edges, or run each part alone"
        )


def from_edges(size: int, edges: Iterable[tuple[int, int]], *, directed: bool = False, name: str = "edges") -> Topology:
    """A topology of given edges; both ways unless directed. `from_edges(len(g), g.edges)` takes a networkx graph."""
    receivers: list[set[int]] = [set() for _ in range(size)]
    for a, b in edges:
        if not (_is_number(a) and _is_number(b) and 0 <= a < size and 0 <= b < size):
            raise ConfigError(
                f"{name}: there is an edge ({a!r}, {b!r}), but workers are the numbers 0 to {size - 1}; of a "
                "graph whose nodes have names take networkx.convert_node_labels_to_integers"
            )
        receivers[a].add(b)
        if not directed:
            receivers[b].add(a)
    return Topology(tuple(tuple(sorted(each)) for each in receivers), name)


def ring(size: int) -> Topology:
    """Each with the one before and the one after."""
    _check(size, "ring")
    return from_edges(size, ((i, (i + 1) % size) for i in range(size) if size > 1), name=f"ring({size})")


def directed_ring(size: int) -> Topology:
    """Each to the one after."""
    _check(size, "directed_ring")
    edges = ((i, (i + 1) % size) for i in range(size) if size > 1)
    return from_edges(size, edges, directed=True, name=f"directed_ring({size})")


def torus(rows: int, columns: int) -> Topology:
    """A grid whose borders meet; worker r · columns + c is in row r and column c."""
    _check(rows, "torus")
    _check(columns, "torus")
    cells = [(r, c) for r in range(rows) for c in range(columns)]
    right = [(r * columns + c, r * columns + (c + 1) % columns) for r, c in cells if columns > 1]
    below = [(r * columns + c, (r + 1) % rows * columns + c) for r, c in cells if rows > 1]
    return from_edges(rows * columns, [*right, *below], name=f"torus({rows}, {columns})")


def complete(size: int) -> Topology:
    """Everybody with everybody."""
    _check(size, "complete")
    return from_edges(size, ((i, j) for i in range(size) for j in range(i)), name=f"complete({size})")


def star(size: int) -> Topology:
    """Worker 0, the hub, with each other one."""
    _check(size, "star")
    return from_edges(size, ((0, i) for i in range(1, size)), name=f"star({size})")


def hubs(count: int, size: int) -> Topology:
    """Workers 0 … count − 1, the hubs, each with all who are no hub."""
    _check(count, "hubs")
    _check(size - count + 1, f"hubs({count}, {size})")
    return from_edges(size, ((h, i) for h in range(count) for i in range(count, size)), name=f"hubs({count}, {size})")


def wheel(size: int) -> Topology:
    """A star whose other workers 1 … n − 1 are a ring among themselves."""
    _check(size, "wheel")
    rim = [(i, i % (size - 1) + 1) for i in range(1, size) if size > 2]  # noqa: PLR2004 - a rim of one has no edge
    return from_edges(size, [*((0, i) for i in range(1, size)), *rim], name=f"wheel({size})")


def hierarchy(groups: Sequence[int]) -> Topology:
    """A tree: root 0, a head for each group (1 … G), then the members of group 1, of group 2 and so on.

    groups: the number of members of each group, at least 1.
    """
    if not groups or min(groups) < 1:
        raise ConfigError(f"groups is {list(groups)}; give the number of members of each group, at least 1")
    owner = [head for head, members in enumerate(groups, 1) for _ in range(members)]
    first = len(groups) + 1
    edges = [*((0, head) for head in range(1, first)), *((head, first + i) for i, head in enumerate(owner))]
    return from_edges(first + len(owner), edges, name=f"hierarchy({list(groups)})")


def exponential(size: int) -> Topology:
    """Directed: i to i + 1, i + 2, i + 4 … (mod n); everybody is reached in ⌈log₂ n⌉ steps."""
    edges = ((i, (i + hop) % size) for i in range(size) for hop in _hops(size))
    return from_edges(size, edges, directed=True, name=f"exponential({size})")


def one_peer_exponential(size: int) -> TimeVarying:
    """At step t everybody sends to the one at distance 2^(t mod ⌈log₂ n⌉): one message each per step."""
    phases = [
        from_edges(size, ((i, (i + hop) % size) for i in range(size)), directed=True, name=f"hop {hop} of {size}")
        for hop in _hops(size)
    ]
    return TimeVarying(tuple(phases), f"one_peer_exponential({size})")


def random_regular(size: int, degree: int, rng: np.random.Generator) -> Topology:
    """A connected graph in which everybody has `degree` neighbours, 2 ≤ degree < size, size · degree even."""
    if not 2 <= degree < size or size * degree % 2:  # noqa: PLR2004 - a graph of degree 1 is pairs
        raise ConfigError(f"degree is {degree}; it must be at least 2 and below {size}, and {size} times it even")
    name = f"random_regular({size}, {degree})"
    for _ in range(_TRIES):
        edges = _paired(size, degree, rng)
        if edges is not None:
            drawn = from_edges(size, edges, name=name)
            if drawn.is_connected:
                return drawn
    raise ConfigError(f"{name}: none of {_TRIES} graphs was connected; raise degree")


def erdos_renyi(size: int, probability: float, rng: np.random.Generator) -> Topology:
    """Each edge with this probability, drawn anew until the graph is connected, which takes more than ln(n)/n."""
    _check(size, "erdos_renyi")
    _check_share("probability", probability)
    name = f"erdos_renyi({size}, {probability})"
    upper = np.triu_indices(size, 1)
    for _ in range(_TRIES):
        chosen = rng.random(len(upper[0])) < probability
        drawn = from_edges(size, zip(*(side[chosen].tolist() for side in upper), strict=True), name=name)
        if drawn.is_connected:
            return drawn
    raise ConfigError(
        f"{name}: none of {_TRIES} graphs was connected; raise it above ln(n)/n = {math.log(size) / size:.3f}"
    )


def watts_strogatz(size: int, neighbours: int, probability: float, rng: np.random.Generator) -> Topology:
    """A small world: a ring of the `neighbours` nearest (even, ≥ 2), whose edges are rewired with this probability.

    One end of an edge moves. Drawn anew until the graph is connected.
    """
    if neighbours < 2 or neighbours % 2 or neighbours >= size:  # noqa: PLR2004 - one on each side
        raise ConfigError(f"neighbours is {neighbours}; it must be even, at least 2 and below {size}")
    _check_share("probability", probability)
    name = f"watts_strogatz({size}, {neighbours}, {probability})"
    for _ in range(_TRIES):
        drawn = from_edges(size, _rewired(size, neighbours, probability, rng), name=name)
        if drawn.is_connected:
            return drawn
    raise ConfigError(f"{name}: none of {_TRIES} graphs was connected; raise neighbours")


def _rewired(size: int, neighbours: int, probability: float, rng: np.random.Generator) -> set[tuple[int, int]]:
    edges = {_edge(i, (i + hop) % size) for hop in range(1, neighbours // 2 + 1) for i in range(size)}
    for hop in range(1, neighbours // 2 + 1):
        for i in range(size):
            if rng.random() >= probability:
                continue
            free = [j for j in range(size) if j != i and _edge(i, j) not in edges]
            if free:
                edges.discard(_edge(i, (i + hop) % size))
                edges.add(_edge(i, free[int(rng.integers(len(free)))]))
    return edges


def _paired(size: int, degree: int, rng: np.random.Generator) -> set[tuple[int, int]] | None:
    """Stubs are paired at random, what makes loops or double edges again; None where the rest cannot be paired."""
    edges: set[tuple[int, int]] = set()
    stubs = [worker for worker in range(size) for _ in range(degree)]
    while stubs:
        order = rng.permutation(len(stubs))
        left: list[int] = []
        for first, second in zip(order[::2], order[1::2], strict=True):
            a, b = stubs[first], stubs[second]
            if a == b or _edge(a, b) in edges:
                left += [a, b]
            else:
                edges.add(_edge(a, b))
        open_ends = sorted(set(left))
        if left and all(_edge(a, b) in edges for i, a in enumerate(open_ends) for b in open_ends[:i]):
            return None
        stubs = left
    return edges


def _edge(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)


def _hops(size: int) -> list[int]:
    if size < 2:  # noqa: PLR2004 - nobody to send to
        raise ConfigError(f"an exponential graph has {size} workers; it must have at least 2")
    return [2**k for k in range(math.ceil(math.log2(size)))]


def _reached(edges: tuple[tuple[int, ...], ...]) -> set[int]:
    """Whom worker 0 reaches."""
    reached, frontier = {0}, [0]
    while frontier:
        found = set(edges[frontier.pop()]) - reached
        reached |= found
        frontier += found
    return reached


def _is_number(worker: object) -> bool:
    return isinstance(worker, int | np.integer) and not isinstance(worker, bool)


def _check(size: object, name: str) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(f"{name} of {size!r} workers; it must be a whole number of at least 1")


def _check_share(setting: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{setting} is {value!r}; it must be a number from 0 to 1")
