"""The same run in many ways, which must give the same bits: processes, any order of arrival, any tree, retries.

Each way is a `Way`: a name and a function from (app, spec, clients) to a model. A network adds its own to `WAYS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np

from hansa.algorithm import Partial
from hansa.arrays import Arrays, first_difference
from hansa.errors import Reason, RunFailedError
from hansa.messages import Metrics, RunSpec, Value
from hansa.run import check_synchronous, counted, derive_rng, resolve, seeded, suit
from hansa.simulation.chosen import chosen_clients
from hansa.simulation.clients import VirtualClients
from hansa.simulation.devices import Behaviour, Devices, Instant, Invitation, RandomFor
from hansa.simulation.fold import Assignment, Engine, Failed, Folded, Folding, Inline, Outcome, Refused
from hansa.simulation.load import load
from hansa.simulation.runtime import EngineName, Simulation, simulate
from hansa.wire import codec

__all__ = ["WAYS", "Variant", "Way", "check_parity", "differences"]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of running, and the model that came out."""

    name: str
    model: Arrays
    model_hash: str


@dataclass(frozen=True, slots=True)
class Way:
    """One way of running."""

    name: str
    run: Callable[[Path, RunSpec, int], Arrays]
    """(path of the app, spec, clients) → the model after the last round."""


def check_parity(app: str | Path, spec: RunSpec, clients: int, ways: Sequence[Way] | None = None) -> list[Variant]:
    """Run an app in each way; `differences` says which of the models are not the first one's.

    `enough` is ignored: it lets the order of arrival choose who counts, and then the models differ by right. Noise that
    would be secret on a network follows from the seed.
    """
    spec = counted(spec, clients)
    check_synchronous(resolve(spec))
    path = Path(app)
    same = replace(seeded(spec), rules=replace(spec.rules, enough=None), evaluation=replace(spec.evaluation, every=0))
    variants = []
    for way in WAYS if ways is None else ways:
        model = way.run(path, same, clients)
        variants.append(Variant(way.name, model, codec.digest(model)))
    return variants


def differences(variants: Sequence[Variant]) -> dict[str, str]:
    """Way → the first tensor that differs from the first variant's; empty when all are equal, to the bit."""
    found = {variant.name: first_difference(variants[0].model, variant.model) for variant in variants[1:]}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


class _Options(TypedDict, total=False):
    engine: EngineName
    workers: int
    devices: Devices


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Devices that answer in a random order, all of them in time."""

    seed: int = 0

    def behave(self, clients: Sequence[str], invitation: Invitation, random_for: RandomFor) -> Sequence[Behaviour]:
        """Less than a millisecond each, so that no deadline and no lease plays a part."""
        del random_for
        rng = derive_rng(self.seed, "arrival", invitation.round, *clients[:1])
        return [Behaviour(float(seconds)) for seconds in rng.random(len(clients)) * 1e-3]


class Tree:
    """An `Engine` in which each client reports to a random combiner of a tree, and sums merge on their way up."""

    def __init__(self, folding: Folding, parents: Mapping[str, str], rng: np.random.Generator) -> None:
        """parents: combiner → its parent; the root is the one that has none of its own."""
        self._folding = folding
        self._parents = parents
        self._rng = rng
        self._root = next(parent for parent in parents.values() if parent not in parents)
        self._partials: dict[str, Partial] = {}

    def begin(
        self, number: int, broadcast: Arrays, config: Mapping[str, Value], keep: frozenset[int] = frozenset()
    ) -> None:
        """See `Engine`."""
        self._folding.begin(number, broadcast, config, keep)
        self._partials = {name: self._folding.zero() for name in (*self._parents, self._root)}

    def train(self, assignments: Sequence[Assignment]) -> Mapping[str, Outcome]:
        """See `Engine`."""
        places = list(self._partials)
        chosen = self._rng.integers(len(places), size=len(assignments)).tolist()
        return {
            assignment.client: self._folding.train(assignment, into=self._partials[places[place]])
            for assignment, place in zip(assignments, chosen, strict=True)
        }

    def collect(self) -> Partial:
        """See `Engine`; a sum climbs as the bytes that it has on a network."""
        return self._sum_below(self._root)

    def remember(self, memories: Mapping[str, Arrays]) -> None:
        """See `Engine`."""
        self._folding.memories.update(memories)

    def evaluate(self, number: int, model: Arrays, clients: Sequence[str]) -> Mapping[str, Metrics | Failed]:
        """See `Engine`."""
        return Inline(self._folding).evaluate(number, model, clients)

    def close(self) -> None:
        """Nothing was started."""

    def _sum_below(self, combiner: str) -> Partial:
        total = self._partials[combiner]
        children = [child for child, parent in self._parents.items() if parent == combiner]
        for k in self._rng.permutation(len(children)).tolist():
            below = self._sum_below(children[k])
            contributions = [below.contributions[name] for name in sorted(below.contributions)]
            body = b"".join(codec.encode_partial(below))
            self._folding.merge(total, codec.decode_partial(body, contributions, below.weight))
        return total


class Retrying(Inline):
    """An `Engine` in which every client loses the answer, trains again and offers again: only once may it count."""

    def __init__(self, folding: Folding) -> None:
        """folding: of the run."""
        super().__init__(folding)
        self._retry = folding

    def train(self, assignments: Sequence[Assignment]) -> Mapping[str, Outcome]:
        """See `Engine`."""
        outcomes = super().train(assignments)
        for assignment in assignments:
            again = self._retry.train(assignment)
            first = outcomes[assignment.client]
            if isinstance(first, Folded) and not (isinstance(again, Refused) and again.reason is Reason.DUPLICATE):
                raise RunFailedError(f"{assignment.client} offered its update twice, and the second time: {again}")
        return outcomes


_THREE_TIERS = {"west": "root", "east": "root", "north-west": "west", "south-west": "west"}
"""Five combiners; clients report to any of them."""

_FLAT = {f"combiner-{k}": "root" for k in range(6)}


def _plain(app: Path, spec: RunSpec, clients: int, **options: Unpack[_Options]) -> Arrays:
    return simulate(app, spec, clients=clients, progress=False, **options).model


def _with_engine(make: Callable[[Folding], Engine], app: Path, spec: RunSpec, clients: int) -> Arrays:
    loaded = load(app)
    run, names = resolve(suit(spec, loaded)), VirtualClients(clients)
    engine = make(Folding(loaded, run, names, tolerate_failures=False))
    chosen, _ = chosen_clients(run.spec.rules, names, None)
    return Simulation(run, loaded, names, engine, Instant(), chosen=chosen).run(None, None, None).model


def _tree(parents: Mapping[str, str], app: Path, spec: RunSpec, clients: int) -> Arrays:
    rng = derive_rng(spec.seed, "tree", len(parents))
    return _with_engine(lambda folding: Tree(folding, parents, rng), app, spec, clients)


WAYS: tuple[Way, ...] = (
    Way("in this process", _plain),
    Way("two processes", partial(_plain, engine="processes", workers=2)),
    Way("three processes", partial(_plain, engine="processes", workers=3)),
    Way("arrival order shuffled", partial(_plain, devices=Shuffled())),
    Way("random groups", partial(_tree, _FLAT)),
    Way("three tiers of five combiners", partial(_tree, _THREE_TIERS)),
    Way("every client retries", partial(_with_engine, Retrying)),
)
"""What one machine can do without a network."""
