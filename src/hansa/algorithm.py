"""The shapes that plug-ins fill: an algorithm is a record of pure functions, both halves of one paper."""

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from hansa.arrays import Array, Arrays
from hansa.messages import Contribution, Metrics, Task, Update

__all__ = [
    "Aggregate",
    "Aggregator",
    "Algorithm",
    "Bound",
    "Buffering",
    "Cohort",
    "Keeping",
    "Noise",
    "Partial",
    "Plan",
    "Policy",
    "Shape",
    "Stage",
    "State",
    "Summing",
    "Trainer",
    "Transform",
    "Vectorized",
]


Plan: TypeAlias = Any
"""An aggregator's own value, for example `aggregators.mean.SumPlan`; others hand it back unread."""

Shape: TypeAlias = Literal["sum", "column", "gram"]
"""What an aggregator sees: `sum` each update once, as it arrives; `column` all updates for one slice of coordinates at
a time; `gram` their inner products, slice by slice. `column` and `gram` keep the updates, which runtimes spool to disk.
"""


@dataclass(frozen=True, slots=True)
class State:
    """What the server keeps between rounds."""

    params: Arrays
    """The global model."""
    round: int = 0
    """Committed rounds so far."""
    slots: Mapping[str, Arrays] = field(default_factory=dict)
    """An algorithm's own memory by name, for example {"m": …, "v": …} of FedAdam."""


@dataclass(slots=True)
class Partial:
    """A sum of updates so far, with its total weight and its contributors. Owned by one fold, which changes it."""

    sums: MutableMapping[str, Array]
    """What the aggregator adds up, for example int64 fixed-point sums of n_i·Δ_i in the shapes of the model.

    Of the shapes `column` and `gram` each client's update, in a mapping that a runtime may keep on disk.
    """
    weight: int = 0
    """The weights of exactly the updates in `sums`."""
    contributions: dict[str, Contribution] = field(default_factory=dict)
    """By client; nobody is in here twice."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Many updates become one: the result of a round, before the server's half has used it."""

    mean: Arrays
    """Weighted mean of the changes, or what stands for it, in the dtypes of `arrays.delta_dtype`."""
    weight: int
    contributions: Mapping[str, Contribution]


class Aggregator(Protocol):
    """How many updates become one. `merge` is associative and commutative, to the bit, with the identity `zero`."""

    @property
    def shape(self) -> Shape:
        """What it sees of the updates, and so what a partial holds."""

    @property
    def least(self) -> int:
        """The fewest contributions of which it can report, at least 1."""

    def plan(self, template: Arrays) -> Plan:
        """What a fold must know, from what the algorithm broadcasts alone: every server derives the same."""

    def zero(self, plan: Plan) -> Partial:
        """The empty sum."""

    def check(self, plan: Plan, update: Update) -> None:
        """Raise `UpdateRejectedError` unless the update may be counted; reads every number, changes nothing."""

    def accumulate(self, plan: Plan, partial: Partial, update: Update, contribution: Contribution) -> Partial:
        """Check the update, then add it to `partial`, which is changed and returned; on an error it is unchanged."""

    def merge(self, plan: Plan, left: Partial, right: Partial) -> Partial:
        """Both sums together, after checking `right`; `left` is changed and returned; on an error it is unchanged."""

    def report(self, plan: Plan, partial: Partial) -> Aggregate:
        """The mean, or what stands for it, from a partial of at least `least` contributions.

        Raises `QuorumNotMetError`, which names what is needed, for fewer.
        """


class Keeping(Aggregator, Protocol):
    """An aggregator of the shape `column` or `gram`."""

    def kept(self, plan: Plan, partial: Partial, client: str) -> Arrays:
        """The change of one client in a partial, as it was sent: who has its digest can check it."""


class Summing(Aggregator, Protocol):
    """An aggregator whose partials are exact sums of whole numbers, each a value of a change in quanta."""

    @property
    def uniform(self) -> bool:
        """Whether every client counts the same, whatever its number of examples."""

    def quanta(self, plan: Plan) -> Mapping[str, float]:
        """The quantum of each floating tensor, a power of two."""


class Trainer(Protocol):
    """Local training in one ML framework, or by a user's own functions."""

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """The model of round 0."""

    def fit(self, model: Arrays, task: Task) -> Update:
        """Train locally from `model`; `arrays` of the result is the model afterwards. Honours `task.correction`."""

    def gradient(self, model: Arrays, task: Task) -> Update:
        """The gradient of the mean loss over all local examples, in the structure of `model`; no step is taken."""

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """Metrics of the model on the client's evaluation data."""


class Vectorized(Protocol):
    """Local work of many clients in one computation: for each what a `Trainer` gives, but for rounding.

    A trainer that has it also has the method `vectorized(model, task) -> Vectorized | str`, which is given the work of
    one client to try; a string says why there is none, as the end of a sentence.
    """

    @property
    def most(self) -> int:
        """Clients at once, by what memory allows."""

    @property
    def on_cpu(self) -> bool:
        """Whether it computes on the cores of the machine."""

    @property
    def share(self) -> int:
        """Clients for which a thread of their own pays, where several may call `fit` at once; 0: they may not."""

    def fit(self, models: Sequence[Arrays], tasks: Sequence[Task]) -> Sequence[Update]:
        """As `Trainer.fit`; a client's update does not depend on the others.

        Best as `Updates`: then what can be done with all of them at once is.
        """

    def gradient(self, models: Sequence[Arrays], tasks: Sequence[Task]) -> Sequence[Update]:
        """As `Trainer.gradient`; the same."""

    def evaluate(self, model: Arrays, tasks: Sequence[Task]) -> Sequence[Metrics]:
        """As `Trainer.evaluate`."""


def _everybodys(model: Arrays, memory: Arrays | None) -> Arrays:
    """The global model, whatever a client remembers."""
    del memory
    return model


@dataclass(frozen=True, slots=True)
class Buffering:
    """How a run goes on whose clients do not wait for each other: a round is over with a number of updates."""

    size: int
    """K: updates in a round, each of another client, trained on the model of this round or of an earlier one."""
    counted: Callable[[Arrays, int, Arrays, Arrays], Arrays]
    """(change, its staleness, what was broadcast when its client began, what is now) → the change as it is summed.

    Pure, and of one update alone: then the sum depends on who is counted, with what staleness, and on no order.
    """
    max_staleness: int | None = None
    """In rounds committed since its client began; an update with more is rejected. None: any counts."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """Both halves of one paper; each field is a pure function."""

    name: str
    init: Callable[[Arrays], State]
    """The initial model → the server's state."""
    broadcast: Callable[[State], Arrays]
    """State → what every client of the round receives, and, but for transforms, the template of what it returns."""
    client_update: Callable[[Trainer, Arrays, Task], Update]
    """Local work on what was broadcast → an update whose arrays have the broadcast's structure."""
    aggregator: Aggregator
    server_update: Callable[[State, Aggregate], State]
    keeps_partial_work: bool = False
    """Whether the work of a straggler counts as far as it got (FedProx), instead of being late."""
    personal: Callable[[Arrays, Arrays | None], Arrays] = _everybodys
    """(global model, the client's memory) → the model that this client evaluates, its own where it has one (Ditto)."""

    buffering: Buffering | None = None
    """Of an asynchronous algorithm (FedBuff, FedAsync); None: all clients of a round train on the same model."""

    sends: str = ""
    """What an update holds beside a change of the model that must arrive as it is, in a weighted mean.

    Then nothing may transform it, and medians and the like are refused.
    """

    @property
    def is_personal(self) -> bool:
        """Whether clients evaluate models of their own."""
        return self.personal is not _everybodys


class Stage(IntEnum):
    """What a transform does; a run has at most one of each, in this order."""

    CLIP = 1
    """It bounds the norm of an update."""
    NOISE = 2
    """It adds noise on the client."""
    SELECT = 3
    """It leaves out values."""
    QUANTIZE = 4
    """It rounds values to fewer bits."""
    RELEASE = 5
    """It changes what the server makes of the sum."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The largest norm that an update may have, over all its floating tensors together."""

    norm: float = math.inf
    order: int = 2
    """1 or 2: of the absolute values, or Euclidean. What is bounded in the first is in the second, too."""


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of one round, for accountants and for data owners."""

    distribution: str
    """gaussian or laplace."""
    multiplier: float
    """Its scale (σ, or b of Laplace) over the bound on one client's update."""
    order: int = 2
    """Of the norm that is bounded."""
    local: bool = True
    """Whether each client adds it to its own update; else it is added once, to the sum, by whoever sums."""
    seeded: bool = False
    """Whether it follows from the run's seed on a network, too: whoever knows that can take it away again."""
    clients: int = 1
    """Of noise in the sum: what the sum is divided by."""
    population: int | None = None
    """Of noise in the sum: how many the clients of a round are drawn from; None: who takes part is no secret."""


def _unchanged(update: Update, rng: np.random.Generator) -> Update:
    del rng
    return update


def _the_same(model: Arrays) -> Arrays:
    return model


@dataclass(frozen=True, slots=True)
class Transform:
    """One update into one update, applied on the client after its half of the algorithm (clipping, quantization …)."""

    name: str
    apply: Callable[[Update, np.random.Generator], Update] = _unchanged
    """Pure. The memory of what it is given, and of what it returns, is the transform's own (`keeps_memory`)."""
    stage: Stage = Stage.SELECT
    bound: Bound = field(default_factory=Bound)
    """On what comes out."""
    unbiased: bool = False
    """Whether the mean of what comes out, over its random numbers, is what went in."""
    keeps_memory: bool = False
    """Whether it remembers something from round to round."""
    secret: bool = False
    """Whether, on a network, its random numbers must be known to nobody, in place of following from the seed."""
    noise: Noise | None = None
    release: Callable[[Partial, Mapping[str, float], np.random.Generator], Partial] | None = None
    """(the sum of all, the quanta of its floating tensors, rng) → the sum that is reported. Changes its argument."""
    wrap: Callable[[Algorithm], Algorithm] | None = None
    """Where it needs a state of its own at the server: the algorithm with that."""
    structure: Callable[[Arrays], Arrays] = _the_same
    """Tensors of what is broadcast → those of what comes out, as large as they may become: quanta are made of them."""

    @property
    def keeps_structure(self) -> bool:
        """Whether what comes out has the tensors of what went in."""
        return self.structure is _the_same


@dataclass(frozen=True, slots=True)
class Cohort:
    """The clients invited to one round."""

    invited: tuple[str, ...]
    substitutes: tuple[str, ...] = ()
    """Who takes the place of a client that fails, in this order."""


Policy: TypeAlias = Callable[[Sequence[str], int, np.random.Generator], Cohort]
"""(connected clients, sorted; round, from 1; rng) → cohort."""
