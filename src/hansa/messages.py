"""The things that travel between the parts of a federation: values, with no behaviour but their own arithmetic."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array, Arrays, stacked
from hansa.errors import ConfigError, InputError

__all__ = [
    "Candidate",
    "ClientInfo",
    "Contrast",
    "Contribution",
    "EvaluationRules",
    "GradientCorrection",
    "Kind",
    "Log",
    "Metrics",
    "Packing",
    "RoundRules",
    "RunSpec",
    "Sample",
    "ServerTask",
    "Signature",
    "Task",
    "TransformSpec",
    "Update",
    "Updates",
    "Value",
    "merge_metrics",
    "stacked_updates",
    "value_from",
]

Value: TypeAlias = "bool | int | float | str | Sequence[Value] | Mapping[str, Value] | None"
"""What a configuration may hold; it survives the wire and the database with its type."""


class Kind(StrEnum):
    """What a client is asked to do."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    PROGRAM = "program"
    """To be one party of the app's program (`hansa.protocols`)."""
    PREDICT = "predict"
    """To say what a model predicts of the client's own data."""


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """Who is training: what `@app.data` receives."""

    name: str
    """Unique in the project."""
    index: int = 0
    """The number of the client's share of a data set that is split among `total`, from 0."""
    total: int = 1
    """How many clients a split data set is shared among."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What the data owner set on this client, for example the path of its data."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """μ·ℓ in the local loss: an example's representation z is to be near that of the model received, not of `previous`.

    ℓ = −log(exp(s₀/τ) / (exp(s₀/τ) + exp(s₁/τ))), s₀ and s₁ the cosines of z and the two, which stay as they are.
    """

    previous: Arrays
    """The other model, for example the client's own of its last round."""
    weight: float
    """μ."""
    temperature: float
    """τ > 0."""


@dataclass(frozen=True, slots=True)
class GradientCorrection:
    """What an algorithm adds to every local gradient: g ← g + proximal·(w − w₀) + offset, w₀ the model received.

    With `anchored` also − g₀, the gradient of the same examples at w₀; with `sharpness` ρ, g is that at w + ρ g/‖g‖.
    """

    proximal: float = 0.0
    """The μ of FedProx, ≥ 0."""
    offset: Arrays | None = None
    """Names and shapes of the model's floating tensors, for example SCAFFOLD's c − c_i."""
    anchored: bool = False
    """Variance reduction, as in Mime; asked only of trainers, which give gradients."""
    frozen: frozenset[str] = frozenset()
    """Tensors that local training leaves as they are, for example the head while FedRep trains the rest."""
    contrast: Contrast | None = None
    """Of MOON; asked only of trainers that know representations."""
    sharpness: float = 0.0
    """The ρ of FedSAM, ≥ 0; ‖g‖ is over all tensors that are trained. Asked of trainers, which give gradients."""
    penalty: Callable[[Any], Any] | None = None
    """What an algorithm of your own adds to the loss of each batch in training, written in PyTorch.

    Of a `hansa.training.torch.LocalBatch`; asked only of `TorchTrainer`.
    """


@dataclass(frozen=True, slots=True)
class Sample:
    """One number that was measured on the way: in a client's training, or of its machine."""

    name: str
    """1 to 200 characters."""
    value: float
    step: int = 0
    """Of training, as user code counts; of a machine 0."""
    at: float = 0.0
    """POSIX seconds by the clock of who has measured it; 0: on a virtual clock."""


class Log:
    """What `task.log` is: it takes numbers on the way, a bounded number of them."""

    MOST: ClassVar = 10_000
    """Numbers of one task; what is more is dropped."""
    LONGEST: ClassVar = 200
    """Characters of a name."""

    def __init__(self, take: Callable[[Sample], None] = lambda _: None, now: Callable[[], float] = lambda: 0.0) -> None:
        """take: is given each sample; now: POSIX seconds."""
        self._take = take
        self._now = now
        self._steps: dict[str, int] = {}
        self._taken = 0
        self.dropped = 0
        """Numbers that were too many."""

    def __repr__(self) -> str:
        """As it is made."""
        return "Log()"

    def __call__(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log named numbers. step: a whole number from 0; by default each name's next, from 1.

        Raises `InputError` for what is none.
        """
        if step is not None and not _is_step(step):
            raise InputError(f"log(step={step!r}): a step is a whole number of at least 0")
        at = self._now()
        for name, value in _numbers(metrics, "log").items():
            if not 1 <= len(name) <= self.LONGEST:
                raise InputError(f"log: the name {name[:20]!r}… has {len(name)} characters; use 1 to {self.LONGEST}")
            if self._taken >= self.MOST:
                self.dropped += 1
                continue
            self._taken += 1
            self._steps[name] = self._steps.get(name, 0) + 1 if step is None else int(step)
            self._take(Sample(name, value, self._steps[name], at))


def _ignore_progress(done: float, total: float) -> None:
    """Progress that nobody asked for."""


@dataclass(slots=True)
class Task:
    """One piece of work for one client: what `@app.train` and `@app.evaluate` receive beside the model."""

    client: ClientInfo
    round: int
    """Counted from 1."""
    rng: np.random.Generator
    """Seeded by the run, the round and the client, so that a simulation and a network draw the same numbers."""
    data: Any = None
    """What `@app.data` returned for this client, else None."""
    config: Mapping[str, Value] = field(default_factory=dict)
    """The run's own settings, as given with `--set key=value`."""
    work: float = 1.0
    """The share of the local work that this device manages before the deadline, 0 < work ≤ 1 (simulated stragglers)."""
    progress: Callable[[float, float], None] = _ignore_progress
    """`task.progress(done, total)` renews the lease of a long task and is shown to the operator."""
    log: Log = field(default_factory=Log)
    """`task.log({"loss": 0.3})` or `task.log({"loss": 0.3}, step=40)`: numbers on the way, kept with the session."""
    memory: Arrays | None = None
    """What this client kept (`Update.memory`) with its last update that is in a committed model; it never travels."""
    _correction: GradientCorrection | None = None
    _correction_was_read: bool = False

    @property
    def correction(self) -> GradientCorrection | None:
        """What to add to each gradient (FedProx, SCAFFOLD …); None when the algorithm asks for nothing."""
        self._correction_was_read = True
        return self._correction

    @property
    def ignored_correction(self) -> bool:
        """Whether the algorithm asked for a correction that local training never looked at."""
        return self._correction is not None and not self._correction_was_read

    def corrected_by(self, correction: GradientCorrection | None) -> "Task":
        """The same task with this correction, not yet looked at."""
        return replace(self, _correction=correction, _correction_was_read=False)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A client that may be invited: what `@app.select` chooses from."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerTask:
    """What `@app.select`, `@app.configure` and `@app.aggregate` receive of the round that they are called for."""

    round: int
    """From 1."""
    rng: np.random.Generator
    """Seeded by the run, the round and the function."""
    config: Mapping[str, Value] = field(default_factory=dict)
    """The run's own settings, as given with `--set key=value`."""
    memory: dict[str, Value] = field(default_factory=dict)
    """Changed in place: what is in it after a call is there in the next one, of whichever function. It is recorded
    with each round, and may have 64 KiB as JSON."""


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """How one floating tensor of a change travels in fewer bytes, which are its values again without any loss.

    A transform that leaves values which need fewer bytes says so; `hansa.wire.packing` writes and reads them.
    """

    sparse: bool = False
    """Only what is not 0 travels, with its positions."""
    bits: int = 0
    """4 or 8: every value is a whole number of steps, at most 2^(bits−1) − 1 up or down; 0: it may be any."""
    steps: Array | None = None
    """In the tensor's dtype: one for all of it, or one for each 512 of its elements in a row."""
    seed: bytes = b""
    """32 bytes: only the positions that they draw travel (`compression.mask.drawn`), all others are 0; empty: any."""
    share: int = 0
    """Of 2^32: how likely a position is drawn."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one client learned in one task.

    Local training returns the model after training as `arrays`; the client half of the algorithm turns it into the
    change, Δ = after − before, which is what travels and what aggregators sum.
    """

    arrays: Arrays
    num_examples: int
    """The weight n_i of this client, 1 ≤ n < 2^63."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    step_sum: float | Mapping[str, float] = 0.0
    """How far the local steps move a value on which the loss has gradient −1 in each: K·η for K steps of plain SGD.

    A proximal correction μ holds it back, to (1 − (1 − ημ)^K)/μ. A mapping says it by tensor, and what is not in it was
    not trained by gradients. 0: unknown. It never travels.
    """
    memory: Arrays | None = None
    """What the client finds as `task.memory` from the round on that counts this update; None: what it had stays."""
    packing: Mapping[str, Packing] = field(default_factory=dict)
    """Of the tensors that a transform has made to travel in fewer bytes, how."""

    def __init__(
        self,
        arrays: Mapping[str, npt.ArrayLike],
        num_examples: int,
        metrics: Mapping[str, float] | None = None,
        *,
        step_sum: float | Mapping[str, float] = 0.0,
        memory: Mapping[str, npt.ArrayLike] | None = None,
        packing: Mapping[str, Packing] | None = None,
    ) -> None:
        """arrays: a mapping of tensor name to array, with the model's names and shapes."""
        object.__setattr__(self, "arrays", arrays if isinstance(arrays, Arrays) else Arrays(arrays))
        object.__setattr__(self, "num_examples", _whole(num_examples, "Update"))
        object.__setattr__(self, "metrics", _numbers(metrics or {}, "Update"))
        object.__setattr__(self, "step_sum", _steps(step_sum))
        object.__setattr__(self, "memory", memory if memory is None or isinstance(memory, Arrays) else Arrays(memory))
        object.__setattr__(self, "packing", dict(packing or {}))


class Updates(Sequence[Update]):
    """Updates of many clients in one value: tensors along a first axis, a row for each client."""

    def __init__(
        self,
        arrays: Mapping[str, npt.ArrayLike],
        num_examples: Sequence[int],
        metrics: Sequence[Mapping[str, float]],
        step_sums: Sequence[float | Mapping[str, float]],
    ) -> None:
        """arrays: of the shape (clients, …); the others: one for each client, as of an `Update`."""
        self.arrays = Arrays(arrays)
        self.num_examples = num_examples
        self.metrics = metrics
        self.step_sums = step_sums

    def __len__(self) -> int:
        return len(self.num_examples)

    @overload
    def __getitem__(self, row: int) -> Update: ...
    @overload
    def __getitem__(self, row: slice) -> "Updates": ...
    def __getitem__(self, row: int | slice) -> "Update | Updates":
        arrays = {name: stack[row] for name, stack in self.arrays.items()}
        if isinstance(row, slice):
            return Updates(arrays, self.num_examples[row], self.metrics[row], self.step_sums[row])
        return Update(arrays, self.num_examples[row], self.metrics[row], step_sum=self.step_sums[row])

    def changed(self, arrays: Mapping[str, npt.ArrayLike]) -> "Updates":
        """The same with other tensors."""
        return Updates(arrays, self.num_examples, self.metrics, self.step_sums)


def stacked_updates(updates: Sequence[Update]) -> Updates | None:
    """Plain updates of one structure in one value, without what clients keep; None where they are not that."""
    first = updates[0].arrays
    kinds = {name: (array.shape, array.dtype) for name, array in first.items()}
    for each in updates:
        found = {name: (array.shape, array.dtype) for name, array in each.arrays.items()}
        if not kinds or list(found) != list(kinds) or found != kinds or each.packing:
            return None
    return Updates(
        {name: stacked([each.arrays[name] for each in updates]) for name in first},
        [each.num_examples for each in updates],
        [each.metrics for each in updates],
        [each.step_sum for each in updates],
    )


@dataclass(frozen=True, slots=True)
class Metrics:
    """Named numbers with the number of examples that they were computed on."""

    values: Mapping[str, float]
    num_examples: int

    def __init__(self, values: Mapping[str, float], num_examples: int) -> None:
        """values: metric name → number; num_examples: the weight of this report in the mean over clients."""
        object.__setattr__(self, "values", _numbers(values, "Metrics"))
        object.__setattr__(self, "num_examples", _whole(num_examples, "Metrics"))


@dataclass(frozen=True, slots=True)
class Signature:
    """Who has signed a statement, and the signature; `hansa.statements` says which bytes are signed."""

    signer: str
    """A public key: `ed25519:` and 64 hexadecimal digits."""
    value: str
    """128 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """One client's part in a sum: what is recorded of an update once its numbers are folded."""

    client: str
    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    digest: str = ""
    """The content address of the update's bytes where they travelled, else empty."""
    signature: Signature | None = None
    """The client's own, where it travelled."""
    base: int = 0
    """In a sum of an asynchronous run, the round whose model it was made from; 0: that of the round that sums it."""
    norm: float | None = None
    """L2, over the floating tensors, as the server that added it has measured; no client signs it. None: unknown."""


@dataclass(frozen=True, slots=True)
class RoundRules:
    """Who takes part in a round, and when it closes."""

    selection: str = "all"
    """A policy of the entry-point group `hansa.policies`: all, count, fraction, cyclic, or a plug-in's."""
    count: int | None = None
    """Clients in the cohort, for the policy `count`."""
    fraction: float | None = None
    """0 < fraction ≤ 1 of the connected clients, for the policy `fraction`."""
    min_clients: int = 1
    """Connected clients that a round waits for before it opens."""
    quorum: int = 1
    """Updates without which a round fails."""
    enough: int | None = None
    """Accepted updates that close the round at once; None: it waits for all who are invited."""
    deadline: float = 3600.0
    """Seconds after the round is due; it closes with the quorum, or fails. Later updates are rejected."""
    lease: float = 60.0
    """Seconds without any progress after which a client's place is offered to another."""
    replace_failed: bool = True
    """Whether a client that fails is replaced by one that was not invited."""
    only: tuple[str, ...] = ()
    """Names of the clients that may be invited; empty: any."""
    labels: tuple[str, ...] = ()
    """Labels that an invited client has, as "region=eu": of one key any of its values, of several keys all."""

    def __post_init__(self) -> None:
        """Take names and labels as any sequence of texts."""
        object.__setattr__(self, "only", _names("only", self.only, '["north", "south"]'))
        object.__setattr__(self, "labels", _names("labels", self.labels, '["region=eu"]'))


@dataclass(frozen=True, slots=True)
class EvaluationRules:
    """What is evaluated after a round."""

    every: int = 1
    """Evaluate after every n-th round and after the last; 0: never."""
    fraction: float = 1.0
    """0 < fraction ≤ 1 of the connected clients evaluate."""
    clients: bool = True
    """Clients evaluate with `@app.evaluate`, or with the app's trainer."""
    central: bool = True
    """Also run `@app.central_evaluate` beside the aggregation, where the app has one."""


@dataclass(frozen=True, slots=True)
class TransformSpec:
    """One step between local training and what leaves the client."""

    name: str
    """A name of the entry-point group `hansa.transforms`."""
    options: Mapping[str, Value] = field(default_factory=dict)
    """For example {"norm": 1.0} for clip."""

    def __str__(self) -> str:
        """As it is written: `clip:norm=1.0`."""
        options = ",".join(f"{key}={json.dumps(value)}" for key, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything that decides the result of a run, as plain values; `hansa.run` makes objects of it."""

    name: str = "run"
    project: str = "default"
    algorithm: str = "fedavg"
    """A name of the entry-point group `hansa.algorithms`."""
    algorithm_options: Mapping[str, Value] = field(default_factory=dict)
    """For example {"learning_rate": 0.01, "beta1": 0.9} for fedadam."""
    aggregator: str = "mean"
    """A name of the entry-point group `hansa.aggregators`."""
    aggregator_options: Mapping[str, Value] = field(default_factory=dict)
    """For example {"uniform": True} for mean: every client counts the same, whatever its number of examples."""
    rounds: int = 10
    seed: int = 0
    rules: RoundRules = field(default_factory=RoundRules)
    evaluation: EvaluationRules = field(default_factory=EvaluationRules)
    max_weight: int = 2**24
    """The most examples that one round may sum; a power of two. More examples cost precision (see aggregators.mean)."""
    range_bits: int = 6
    """A client may change a value by up to 2^range_bits times the tensor's scale; beyond, the update is rejected."""
    config: Mapping[str, Value] = field(default_factory=dict)
    """Handed to user code as `task.config`."""
    transforms: tuple[TransformSpec, ...] = ()
    """What each update goes through before it leaves the client, in this order: "clip:norm=1.0", "quantize:bits=4"."""
    parties: tuple[str, ...] = ()
    """Clients that run the app's program in place of rounds, its worker 0 first; `central` is beside the server."""
    functions: tuple[str, ...] = ()
    """Functions of the app that are called beside the server in each round: select, configure, aggregate."""

    def __post_init__(self) -> None:
        """Take transforms as text, as mappings of name and options, or as what they are; refuse other kinds."""
        for name in ("name", "project", "algorithm", "aggregator"):
            if not isinstance(value := getattr(self, name), str):
                raise ConfigError(f"{name} is {value!r}; it must be one name, as text")
        for name, kind in (("rules", RoundRules), ("evaluation", EvaluationRules)):
            if not isinstance(value := getattr(self, name), kind):
                raise ConfigError(f"{name} is {value!r}; it must be made by hansa.{kind.__name__}(…)")
        for name in ("algorithm_options", "aggregator_options", "config"):
            object.__setattr__(self, name, _options(name, getattr(self, name)))
        for name in ("rounds", "seed", "max_weight", "range_bits"):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        object.__setattr__(self, "transforms", _transforms(self.transforms))
        object.__setattr__(self, "functions", _names("functions", self.functions, '["select"]'))
        object.__setattr__(self, "parties", _names("parties", self.parties, '["bank", "insurer"]'))


def merge_metrics(reports: Iterable[tuple[Mapping[str, float], int]]) -> dict[str, Metrics]:
    """The mean of each metric over the reports that have it, weighted by their examples, and those examples.

    reports: (metrics, num_examples) pairs, in any order: sums are exact (`math.fsum`), so the order does not matter.
    A metric that is NaN or infinite anywhere, or whose sum is, comes out as NaN.
    """
    terms: dict[str, list[tuple[float, int]]] = {}
    for values, num_examples in reports:
        for name, value in values.items():
            terms.setdefault(name, []).append((value, num_examples))
    return {
        name: Metrics({name: _weighted_mean(pairs)}, sum(n for _, n in pairs)) for name, pairs in sorted(terms.items())
    }


def _weighted_mean(pairs: Sequence[tuple[float, int]]) -> float:
    total = sum(n for _, n in pairs)
    products = [value * n for value, n in pairs]
    if total == 0 or not all(map(math.isfinite, products)):
        return math.nan
    try:
        return math.fsum(products) / total
    except OverflowError:
        return math.nan


def _names(setting: str, given: object, example: str) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(each, str) for each in given):
        raise ConfigError(f"{setting} is {given!r}; it must be a list of texts, for example {example}")
    return tuple(given)


def _plain(value: Any) -> Any:
    """A number of NumPy's as what it is."""
    return value.item() if isinstance(value, np.number | np.bool_) else value


def _options(setting: str, given: object) -> Mapping[str, Value]:
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ConfigError(f'{setting} is {given!r}; it must be a mapping of names to values, for example {{"mu": 0.1}}')
    return {name: _plain(value) for name, value in given.items()}


def _transforms(given: object) -> tuple[TransformSpec, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigError(f'transforms is {given!r}; it must be a list, for example ["clip:norm=1.0"]')
    return tuple(_transform(each) for each in given)


def _transform(given: object) -> TransformSpec:
    match given:
        case TransformSpec():
            return given
        case str():
            name, _, options = given.partition(":")
            pairs = [pair.partition("=") for pair in options.split(",") if pair]
            if any(not key or not equals for key, equals, _ in pairs):
                raise ConfigError(f"transform {given!r} cannot be read: write {name}:option=value,option=value")
            chosen = {key.strip(): value_from(value) for key, _, value in pairs}
            if len(chosen) < len(pairs):
                raise ConfigError(f"transform {given!r} gives an option twice")
            return TransformSpec(name.strip(), chosen)
        case {"name": str(name), "options": Mapping() as given_options, **rest} if not rest:
            return TransformSpec(name, given_options)
        case {"name": str(name), **rest} if not rest:
            return TransformSpec(name)
        case _:
            raise ConfigError(f'transform {given!r} cannot be read: write "name:option=value,option=value"')


_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)\.\d*|\.\d+)([eE][+-]?\d+)?")
"""With a point, which JSON wants between two digits; 007 is text."""


def value_from(text: str) -> Any:
    """The value of a text that is JSON (0.1, true), or a number as people write it (.1, 1.), else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return float(text) if _NUMBER.fullmatch(text.strip()) else text


def _whole(num_examples: object, what: str) -> int:
    if isinstance(num_examples, bool) or not isinstance(num_examples, int | np.integer):
        raise InputError(f"{what}(num_examples={num_examples!r}): the number of examples must be a whole number")
    return int(num_examples)


def _steps(step_sum: object) -> float | dict[str, float]:
    if isinstance(step_sum, Mapping):
        return {str(name): _distance(value) for name, value in step_sum.items()}
    return _distance(step_sum)


def _is_step(step: object) -> bool:
    return isinstance(step, int | np.integer) and not isinstance(step, bool) and int(step) >= 0


def _distance(value: object) -> float:
    number = float(value) if isinstance(value, int | float | np.number) else math.nan
    if not 0 <= number < math.inf:
        raise InputError(f"Update(step_sum={value!r}): it must be a number of at least 0, for example steps times η")
    return number


def _numbers(values: Mapping[str, Any], what: str) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in values.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{what}: metrics must be a mapping of name to number, not {values!r}") from error
