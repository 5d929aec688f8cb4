"""Malicious clients, for simulations only: an attack is named in one line, who attacks is drawn by the seed.

    sign-flip:0.2                       a fifth of the clients send −Δ
    alie:0.2,z=1.5                      with an option
    backdoor+scaling:0.1,factor=10      the same clients do both, one after the other

| attack     | what a malicious client does                             | options (default)                       |
|------------|----------------------------------------------------------|-----------------------------------------|
| sign-flip  | sends −c·Δ                                               | factor, c (1)                           |
| scaling    | sends c·Δ, as in model replacement [1]                   | factor, c (10)                          |
| gaussian   | sends N(0, σ²) instead of Δ [2]                          | sigma (1)                               |
| free-rider | sends 0, or N(0, σ²) to look busy [3]                    | sigma (0)                               |
| alie       | sends μ − z·s: "a little is enough" [4]                  | z (by n and m)                          |
| ipm        | sends −ε·μ: inner product manipulation [5]               | epsilon (0.5)                           |
| label-flip | trains on labels L − 1 − y                               | classes, L (by its own labels)          |
| backdoor   | trains on marked inputs that have the target's label [6] | target (0), poisoned (0.5), its share,  |
|            |                                                          | size (4) and value (1) of the mark      |

[1] Bagdasaryan et al. 2018, arXiv:1807.00459 · [2] Blanchard et al. 2017, arXiv:1703.02757 · [3] Lin et al. 2019,
arXiv:1911.12560 · [4] Baruch et al. 2019, arXiv:1902.06156 · [5] Xie et al. 2019, arXiv:1903.03936 · [6] Gu et al.
2017, arXiv:1708.06733

Knowledge that is assumed: an attacker knows the algorithm, the model and its own data. Those of `alie` and `ipm` also
share their honest updates of the round with each other: μ and s are the mean and the standard deviation, by coordinate,
of what the invited malicious clients would have sent, as Baruch et al. estimate them; Xie et al. let the attacker know
the honest clients' mean itself. `alie` knows how many are invited, n, and how many of them attack, m: z is the largest
for which a majority still stands behind it, Φ⁻¹((n − m − s)/(n − m)) with s = ⌊n/2 + 1⌋ − m.

Only floating tensors are forged. What is forged comes after the run's transforms: it is not clipped, and travels in
full where a transform has left values that need fewer bytes, but for zeros. Data attacks need data that are pairs (x,
y) of arrays, or a `hansa.data.Split` of them. What a malicious client reports of its training, and what it evaluates,
is honest. A client that the aggregator trusts by name (FLTrust) does not attack.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from statistics import NormalDist
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array, Arrays, is_floating, map_floating, scale
from hansa.data.examples import Examples, Split
from hansa.errors import AppError, ConfigError
from hansa.messages import Packing, Task, Update
from hansa.run import Run, derive_rng

__all__ = ["ATTACKS", "Attack", "Attackers", "Collusion", "attackers_of", "flipped", "moments", "triggered"]

_RANGES: Final = {
    "sigma": (0, math.inf),
    "classes": (1, math.inf),
    "target": (0, math.inf),
    "size": (1, math.inf),
    "poisoned": (0, 1),
}
"""Option → (least, most); others are any finite numbers."""
_WHOLE: Final = frozenset({"classes", "target", "size"})

_MOST_CERTAIN = 0.999
"""The share of a normal distribution that ALIE hides behind at most, where it has the majority anyway."""


@dataclass(frozen=True, slots=True)
class Collusion:
    """What malicious clients know of each other in a round."""

    invited: int
    """n, clients in the cohort."""
    colluders: int
    """m, malicious ones among them."""
    mean: Arrays
    """μ of their honest updates."""
    deviation: Arrays
    """s, by coordinate; 0 where there is one colluder."""


Options: TypeAlias = Mapping[str, float]

Forge: TypeAlias = Callable[[Arrays, Options, np.random.Generator], Arrays]
"""(the honest change, options, rng) → what is sent."""

Conspire: TypeAlias = Callable[[Collusion, Options], Arrays]
"""(what is known, options) → what every colluder sends."""

Poison: TypeAlias = Callable[[Examples, Options, np.random.Generator], Examples]
"""(the client's examples, options, rng) → what it trains on."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One attack; one of the functions is given."""

    options: Options = field(default_factory=dict)
    """Those there are, with their defaults; NaN: what the client's data or cohort says."""
    forge: Forge | None = None
    conspire: Conspire | None = None
    poison: Poison | None = None


@dataclass(frozen=True, slots=True)
class Attack:
    """Which attacks the malicious clients combine, and how many clients are malicious."""

    kinds: tuple[str, ...]
    """Names of `ATTACKS`, applied in this order."""
    share: float
    """Of the registered clients, 0 < share < 1; at least one client is malicious."""
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        unknown = [kind for kind in self.kinds if kind not in ATTACKS]
        if unknown or not self.kinds:
            alike = [each for name in unknown for each in get_close_matches(name, ATTACKS, n=1)]
            meant = f"; do you mean {', '.join(alike)}?" if alike else ""
            named = ", ".join(kind or "''" for kind in unknown) or "named"
            raise ConfigError(f"there is no attack {named}; there is: {', '.join(ATTACKS)}{meant}")
        if not 0 < self.share < 1:
            raise ConfigError(f"the share of malicious clients is {self.share}; it must be above 0 and below 1")
        known = {option for kind in self.kinds for option in ATTACKS[kind].options}
        for option in self.options:
            if option not in known:
                has = f"has {', '.join(sorted(known))}" if known else "has none"
                raise ConfigError(f"the attack {'+'.join(self.kinds)} has no option {option!r}; it {has}")
            _check_option(option, self.options[option])

    @classmethod
    def parse(cls, text: str) -> "Attack":
        """`NAME[+NAME…]:SHARE[,OPTION=NUMBER…]`, for example `backdoor+scaling:0.1,factor=10`."""
        names, colon, rest = text.partition(":")
        share, *pairs = rest.split(",")
        given = [pair.partition("=") for pair in pairs]
        try:
            options = {name.strip(): float(number) for name, _, number in given}
            if len(options) < len(given):
                raise ConfigError(f"the attack {text!r} gives an option twice")
            return cls(tuple(name.strip() for name in names.split("+")), float(share), options)
        except ValueError:
            said = "" if colon else ": the share of malicious clients is missing"
            raise ConfigError(
                f"the attack {text!r} cannot be read{said}; write for example sign-flip:0.2 or scaling:0.1,factor=10"
            ) from None

    def __str__(self) -> str:
        options = "".join(f",{name}={number!r}" for name, number in self.options.items())
        return f"{'+'.join(self.kinds)}:{self.share!r}{options}"


def _check_option(name: str, value: float) -> None:
    least, most = _RANGES.get(name, (-math.inf, math.inf))
    fits = math.isfinite(value) and least <= value <= most and (name not in _WHOLE or value == math.trunc(value))
    if not fits:
        said = "a whole number" if name in _WHOLE else "a finite number"
        bounds = f" from {least:g} to {most:g}" if math.isfinite(most) else f" of at least {least:g}"
        raise ConfigError(f"the attack's {name} is {value:g}; it must be {said}{bounds * math.isfinite(least)}")


def attackers_of(attack: Attack | str | None, run: Run, clients: Sequence[str]) -> "Attackers | None":
    """The malicious clients of a run that is attacked; attack: also as `Attack.parse` reads it, or empty."""
    if not attack:
        return None
    if not isinstance(attack, Attack | str):
        raise ConfigError(f"attack is {attack!r}; write for example sign-flip:0.2 or scaling:0.1,factor=10")
    return Attackers(Attack.parse(attack) if isinstance(attack, str) else attack, run, clients)


class Attackers:
    """The malicious clients of one run."""

    def __init__(self, attack: Attack, run: Run, clients: Sequence[str]) -> None:
        """clients: all that are registered."""
        self.attack = attack
        self._run = run
        self._clients = clients
        trusted = run.spec.aggregator_options.get("trusted")
        count = min(max(1, round(attack.share * len(clients))), len(clients))
        drawn = derive_rng(run.spec.seed, "attack").choice(len(clients), count, replace=False)
        self.names = frozenset(clients[k] for k in drawn.tolist()) - {trusted}
        """Who is malicious."""
        self._kinds = [(kind, ATTACKS[kind]) for kind in attack.kinds]

    @property
    def collude(self) -> bool:
        """Whether they need each other's honest updates."""
        return any(kind.conspire is not None for _, kind in self._kinds)

    def invited(self, number: int) -> tuple[int, tuple[str, ...]]:
        """(how many clients are invited to a round, the malicious among them by name)."""
        invited = self._run.cohort(self._clients, number).invited
        return len(invited), tuple(sorted(self.names.intersection(invited)))

    def poisoned(self, task: Task) -> Task:
        """The task with the data that its client trains on; raises `AppError` for data that are no pairs."""
        if task.client.name in self.names:
            for name, kind in self._kinds:
                if kind.poison is not None:
                    rng = derive_rng(self._run.spec.seed, "attack", name, task.client.name)
                    task.data = _poisoned(task.data, kind.poison, self._options(kind), rng, name)
        return task

    def sent(self, client: str, number: int, update: Update, collusion: Callable[[], Collusion]) -> Update:
        """What a client sends of its honest update. collusion: asked only where it is needed."""
        if client not in self.names:
            return update
        arrays = update.arrays
        for name, kind in self._kinds:
            if kind.forge is not None:
                rng = derive_rng(self._run.spec.seed, "attack", name, number, client)
                arrays = kind.forge(arrays, self._options(kind), rng)
            elif kind.conspire is not None:
                forged = kind.conspire(collusion(), self._options(kind))
                arrays = map_floating(lambda mine, theirs: theirs.astype(mine.dtype), arrays, forged)
        if arrays is update.arrays:
            return update
        forged = map_floating(lambda array: array + array.dtype.type(0), arrays)  # −0 is 0, which need not travel
        return replace(update, arrays=forged, packing=_as_sparse(update.packing))

    def _options(self, kind: _Kind) -> Options:
        return {name: self.attack.options.get(name, default) for name, default in kind.options.items()}


def moments(updates: Iterable[Update], invited: int) -> Collusion:
    """Mean and standard deviation of updates, by coordinate, in the order given (Welford's), in float64."""
    count, mean, squares = 0, Arrays(), Arrays()
    for count, update in enumerate(updates, 1):
        values = Arrays({n: a.astype(np.float64) for n, a in update.arrays.items() if is_floating(a)})
        if count == 1:
            mean, squares = values, Arrays({name: np.zeros_like(array) for name, array in values.items()})
            continue
        away = {name: values[name] - mean[name] for name in values}
        mean = Arrays({name: mean[name] + away[name] / count for name in values})
        squares = Arrays({name: squares[name] + away[name] * (values[name] - mean[name]) for name in values})
    return Collusion(invited, count, mean, Arrays({n: np.sqrt(array / count) for n, array in squares.items()}))


def flipped(examples: Examples, classes: int) -> Examples:
    """The examples with labels L − 1 − y."""
    return Examples(examples.x, np.asarray(classes - 1 - examples.y, examples.y.dtype))


def triggered(x: Array, *, size: int = 4, value: float = 1.0) -> Array:
    """Inputs with the trigger of a backdoor: the last `size` values of each have this value. x: shape (n, …)."""
    marked = np.array(x)
    marked.reshape(len(marked), -1)[:, -size:] = value
    return marked


def _as_sparse(packing: Mapping[str, Packing]) -> dict[str, Packing]:
    """How what was forged travels: its values need not be those that a transform has left."""
    return {name: Packing(sparse=True) for name, how in packing.items() if how.sparse}


def _noise(arrays: Arrays, sigma: float, rng: np.random.Generator) -> Arrays:
    return map_floating(lambda array: rng.normal(0.0, sigma, array.shape).astype(array.dtype), arrays)


def _gaussian(arrays: Arrays, options: Options, rng: np.random.Generator) -> Arrays:
    return _noise(arrays, options["sigma"], rng)


def _sign_flip(arrays: Arrays, options: Options, _: np.random.Generator) -> Arrays:
    return scale(arrays, -options["factor"])


def _scaling(arrays: Arrays, options: Options, _: np.random.Generator) -> Arrays:
    return scale(arrays, options["factor"])


def _alie(known: Collusion, options: Options) -> Arrays:
    z = options["z"]
    if np.isnan(z):
        honest = known.invited - known.colluders
        needed = known.invited // 2 + 1 - known.colluders
        behind = (honest - needed) / honest if honest > 0 else _MOST_CERTAIN
        z = NormalDist().inv_cdf(min(max(behind, 1 - _MOST_CERTAIN), _MOST_CERTAIN))
    return Arrays({name: mean - z * known.deviation[name] for name, mean in known.mean.items()})


def _ipm(known: Collusion, options: Options) -> Arrays:
    return scale(known.mean, -options["epsilon"])


def _label_flip(examples: Examples, options: Options, _: np.random.Generator) -> Examples:
    classes = options["classes"]
    if np.isnan(classes):
        classes = int(examples.y.max()) + 1 if len(examples.y) else 1
    return flipped(examples, int(classes))


def _backdoor(examples: Examples, options: Options, rng: np.random.Generator) -> Examples:
    chosen = rng.permutation(len(examples.y))[: int(options["poisoned"] * len(examples.y))]
    if isinstance(examples.x, Mapping):
        raise AppError("the attack backdoor sets the last numbers of one array: it has no trigger for inputs by name")
    x, y = np.array(examples.x), np.array(examples.y)
    x[chosen] = triggered(x[chosen], size=int(options["size"]), value=options["value"])
    y[chosen] = int(options["target"])
    return Examples(x, y)


ATTACKS: Mapping[str, _Kind] = {
    "sign-flip": _Kind({"factor": 1.0}, forge=_sign_flip),
    "scaling": _Kind({"factor": 10.0}, forge=_scaling),
    "gaussian": _Kind({"sigma": 1.0}, forge=_gaussian),
    "free-rider": _Kind({"sigma": 0.0}, forge=_gaussian),
    "alie": _Kind({"z": np.nan}, conspire=_alie),
    "ipm": _Kind({"epsilon": 0.5}, conspire=_ipm),
    "label-flip": _Kind({"classes": np.nan}, poison=_label_flip),
    "backdoor": _Kind({"target": 0.0, "size": 4.0, "value": 1.0, "poisoned": 0.5}, poison=_backdoor),
}
"""By name; options have one meaning wherever they are."""


def _poisoned(data: Any, poison: Poison, options: Options, rng: np.random.Generator, name: str) -> Any:
    match data:
        case Split():
            return replace(data, train=poison(data.train, options, rng))
        case (np.ndarray() | Mapping() as x, np.ndarray() as y) if _are_of(x, len(y)):
            return poison(Examples(x, _labels(y, name)), options, rng)
        case _:
            raise AppError(
                f"the attack {name} changes data that are a pair (x, y) of numpy arrays, or a hansa.data.Split of "
                f"them; @app.data returned a {type(data).__name__}"
            )


def _are_of(x: Any, size: int) -> bool:
    """Whether inputs, or each of them by name, are an array of so many examples."""
    parts = x.values() if isinstance(x, Mapping) else (x,)
    return all(isinstance(part, np.ndarray) and len(part) == size for part in parts)


def _labels(y: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise AppError(f"the attack {name} changes labels that are whole numbers of shape (n,), not {y.dtype}{y.shape}")
    return y
