"""What one simulation is made of, drawn from its seed; and the same with less in it."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, TypeVar

from agreement.learning import LOSSES, ODDITIES, OPTIMIZERS
from agreement.modules import INPUTS, LAYERS, QUIRKS
from hansa.run import names

__all__ = ["ALGORITHMS", "Case", "draw", "smaller"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Case:
    """A simulation. Each default is the plainest value."""

    inputs: str = "flat"
    layers: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    quirk: str = ""
    dtype: str = "float64"
    targets: str = "classes"
    loss: str = "cross_entropy"
    optimizer: str = "sgd"
    batch_size: int | None = 4
    epochs: int | None = None
    steps: int | None = None
    drop_last: bool = False
    evaluation_batch_size: int = 1024
    channels_last: bool = False
    bfloat16: bool = False
    metrics: bool = False
    sizes: tuple[int, ...] = (8, 5)
    """Examples of each client."""
    oddities: tuple[tuple[int, str], ...] = ()
    """(client, what is odd about its data)."""
    kept: bool = False
    """Whether the app hands out the same arrays in each round."""
    algorithm: str = "fedavg"
    options: tuple[tuple[str, Any], ...] = ()
    aggregator: str = "mean"
    aggregator_options: tuple[tuple[str, Any], ...] = ()
    transforms: tuple[str, ...] = ()
    attack: str = ""
    devices: str = ""
    count: int | None = None
    """Clients in each cohort; None: all."""
    max_weight: int = 2**24
    rounds: int = 1
    seed: int = 0
    tolerate: bool = False
    central: bool = False
    """Whether the app also measures the new model beside the server."""

    def text(self) -> str:
        """What is not plain, as JSON."""
        return json.dumps({name: value for name, value in asdict(self).items() if value != getattr(Case(), name)})

    @classmethod
    def read(cls, text: str) -> "Case":
        """The inverse of `text`."""
        return cls(**{name: _tuples(value) for name, value in json.loads(text).items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


ALGORITHMS: Final[dict[str, tuple[tuple[tuple[str, Any], ...], ...]]] = {
    "fedavg": ((),),
    "fedavgm": ((),),
    "fedsgd": ((),),
    "fedadagrad": ((),),
    "fedadam": ((),),
    "fedyogi": ((),),
    "fedprox": ((("mu", 0.5),), (("mu", 0.0),)),
    "fedsam": ((), (("rho", 1.0),)),
    "scaffold": ((),),
    "fednova": ((), (("mu", 0.3), ("momentum", 0.5))),
    "feddyn": ((),),
    "mime": ((),),
    "mimelite": ((),),
    "moon": ((), (("mu", 0.0),)),
    "ditto": ((), (("pull", 0.0),)),
    "fedbn": ((), (("personal", "*bias"),)),
    "fedper": ((("personal", "*bias"),), (("personal", "*weight"),)),
    "fedrep": ((("personal", "*bias"),), (("personal", "*weight"), ("head_passes", 2))),
    "pfedme": ((("local_rounds", 2),),),
    "qfedavg": ((("learning_rate", 0.2),),),
    "afl": ((),),
    "ifca": ((), (("clusters", 3),)),
    "fedasync": ((), (("mu", 0.2),)),
    "fedbuff": ((("buffer", 2),),),
}
"""Those that train with a trainer, with options."""
assert set(ALGORITHMS) | {"fednas", "heavy-hitters", "hist-gbdt", "kmeans", "statistics"} == set(
    names("hansa.algorithms")
)

_AGGREGATORS: Final[tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]] = (
    ("mean", (("uniform", True),)),
    ("median", ()),
    ("trimmed-mean", (("beta", 0.3),)),
    ("krum", (("f", 0),)),
    ("multi-krum", (("f", 0), ("m", 2))),
    ("bulyan", (("f", 0),)),
    ("geometric-median", ()),
    ("centered-clipping", (("tau", 0.1),)),
    ("norm-bound", (("bound", 0.05),)),
    ("fltrust", (("trusted", "client-0"),)),
    ("foolsgold", ()),
)
_TRANSFORMS: Final = (
    "clip:norm=0.05",
    "adaptive-clip:norm=0.05",
    "clip:norm=0.1 gaussian-noise:multiplier=0.5",
    "clip:norm=0.1,order=1 laplace-noise:multiplier=0.5",
    "clip:norm=0.1 central-noise:multiplier=0.5,clients=2",
    "top-k:share=0.3",
    "top-k:share=0.3,feedback=false",
    "random-mask:share=0.5",
    "quantize:bits=8",
    "quantize:bits=4",
    "count-sketch:share=0.5,keep=0.3",
    "clip:norm=0.1 top-k:share=0.5 quantize:bits=8",
)
_ATTACKS: Final = (
    "sign-flip:0.3",
    "scaling:0.3,factor=2",
    "gaussian:0.3",
    "free-rider:0.3",
    "alie:0.5,z=1",
    "ipm:0.5",
    "label-flip:0.5",
    "backdoor:0.5",
    "backdoor+scaling:0.3,factor=2",
)
_DEVICES: Final = ("Stragglers(0.6)", "Dropouts(0.3)", "LogNormalSpeeds(10.0, sigma=1.0, dropout=0.1)")

_CALM: Final = frozenset(
    {"sgd", "momentum", "nesterov", "dampened", "decayed", "foreach", "fused", "grouped", "partly"}
)
"""Optimizers that do not make much of a gradient that is all rounding: those alone are seen in narrower dtypes."""


def draw(seed: int) -> Case:
    """The case of a seed: most of it is plain, so that what is not is seen for itself."""
    rng = random.Random(seed)  # noqa: S311 - the same in every run

    def rarely(share: float, others: Sequence[T], plain: T) -> T:
        return rng.choice(others) if rng.random() < share else plain

    inputs = rarely(0.25, list(INPUTS), "flat")
    quirk = rarely(0.25, list(QUIRKS), "")
    targets = "places" if quirk == "places" else rarely(0.35, [each for each in LOSSES if each != "places"], "classes")
    if targets == "places":
        inputs = "tokens"
    layers = tuple(rng.choices(list(LAYERS), k=rng.randint(0, 4)))
    if rng.random() < 0.3:
        layers = ("linear", rng.choice(["relu", "relu in place", "tanh", "sigmoid"]), *layers[:1])
    if inputs == "image" and rng.random() < 0.7:
        layers = ("conv", *layers)
    clients = rng.randint(2, 6)
    case = Case(
        inputs=inputs,
        layers=layers,
        tail=tuple(rng.choices(_TAILS, k=rng.randint(1, 2))) if rng.random() < 0.3 else (),
        quirk=quirk,
        targets=targets,
        loss=rarely(0.6, list(LOSSES[targets]), next(iter(LOSSES[targets]))),
        optimizer=rarely(0.6, list(OPTIMIZERS), "sgd"),
        batch_size=rarely(0.5, [None, 1, 2, 8, 100], 4),
        epochs=rarely(0.4, [1, 2, 3], None),
        drop_last=rng.random() < 0.1,
        evaluation_batch_size=rarely(0.3, [1, 3, 8], 1024),
        metrics=rng.random() < 0.2,
        sizes=tuple(rng.choice([1, 2, 3, 4, 5, 7, 8, 9, 13, 20]) for _ in range(clients)),
        kept=rng.random() < 0.3,
        algorithm=rarely(0.5, list(ALGORITHMS), "fedavg"),
        rounds=rng.randint(1, 3),
        seed=rng.randrange(1000),
        tolerate=rng.random() < 0.6,
        count=rarely(0.1, [1, 2], None),
        channels_last=rng.random() < 0.05,
        bfloat16=rng.random() < 0.02,
        devices=rarely(0.1, _DEVICES, ""),
        attack=rarely(0.08, _ATTACKS, ""),
        max_weight=rarely(0.05, [16, 64], 2**24),
    )
    if case.epochs is None and rng.random() < 0.2:
        case = replace(case, steps=rng.randint(1, 7))
    if rng.random() < 0.4:
        odd = [(rng.randrange(clients), rng.choice(ODDITIES)) for _ in range(rng.randint(1, 2))]
        case = replace(case, oddities=tuple(dict(odd).items()))
    if rng.random() < 0.1:
        case = replace(case, sizes=(*case.sizes[1:], 0))
    case = replace(case, options=rng.choice(ALGORITHMS[case.algorithm]))
    if rng.random() < 0.1:
        aggregator, options = rng.choice(_AGGREGATORS)
        case = replace(case, aggregator=aggregator, aggregator_options=options)
    if rng.random() < 0.1:
        case = replace(case, transforms=tuple(rng.choice(_TRANSFORMS).split()))
    narrow = rng.random()
    exact = (
        case.transforms
        or case.aggregator != "mean"
        or case.attack
        or case.algorithm in {"ifca", "fedadam", "fedyogi", "fedadagrad"}
    )
    if case.optimizer in _CALM and not exact:
        narrowest = "float32" if case.algorithm == "fedsam" else "bfloat16"  # its steps are long whatever g is
        case = replace(case, dtype=narrowest if narrow < 0.05 else "float32" if narrow < 0.4 else "float64")
    return replace(case, central=rng.random() < 0.15)


_TAILS: Final = (
    "relu", "relu in place", "tanh", "sigmoid", "softmax", "log softmax", "identity", "leaky in place", "softplus",
    "dropout", "layer norm", "scaled", "double in place", "torch.relu", "softmax over places",
)  # fmt: skip


def smaller(case: Case) -> Iterator[Case]:
    """The same with one thing less or plainer."""
    plain = Case()
    for field in fields(Case):
        value, default = getattr(case, field.name), getattr(plain, field.name)
        if value == default or field.name == "targets":
            continue
        if field.name == "sizes":
            if len(value) > 1 and not case.oddities:
                yield replace(case, sizes=value[:-1])
                yield replace(case, sizes=value[1:])
            for number, size in enumerate(value):
                if size > 1:
                    yield replace(case, sizes=(*value[:number], size // 2, *value[number + 1 :]))
            continue
        if field.name == "loss":
            first = next(iter(LOSSES[case.targets]))
            if value != first:
                yield replace(case, loss=first)
            continue
        if field.name == "inputs" and case.targets == "places":
            continue
        yield (
            replace(case, **{field.name: default})
            if field.name != "algorithm"
            else replace(case, algorithm=default, options=())
        )
        if isinstance(value, tuple) and len(value) > 1 and field.name != "options":
            for number in range(len(value)):
                yield replace(case, **{field.name: (*value[:number], *value[number + 1 :])})
