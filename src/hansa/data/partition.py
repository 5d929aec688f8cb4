"""How one data set is shared among clients: functions of labels, sizes or features, and `partition`, which names them.

Every function returns a `Partition`: one ascending array of sample indices per client, together the data set exactly,
each sample once. The same generator state gives the same partition, so that clients in separate processes can each
compute it and keep their own part. A request that cannot be met raises `InputError`.

```python
parts = partition("dirichlet:0.5,min_size=10", labels, 100, np.random.default_rng(0))
```
"""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.data.partition_features import clusters, feature_noise, octants
from hansa.data.partition_labels import (
    dirichlet,
    dirichlet_by_class,
    label_count,
    label_lognormal,
    long_tail,
    pachinko,
    shards,
    similarity,
)
from hansa.data.partition_sizes import grouped, iid, natural, quantity_dirichlet, quantity_lognormal, quantity_skew
from hansa.data.parts import Indices, Partition, at_least
from hansa.errors import InputError

__all__ = [
    "ALIASES",
    "SCHEMES",
    "Indices",
    "Partition",
    "at_least",
    "clusters",
    "dirichlet",
    "dirichlet_by_class",
    "feature_noise",
    "grouped",
    "iid",
    "label_count",
    "label_lognormal",
    "long_tail",
    "natural",
    "octants",
    "options",
    "pachinko",
    "partition",
    "quantity_dirichlet",
    "quantity_lognormal",
    "quantity_skew",
    "shards",
    "similarity",
]

SCHEMES: Mapping[str, Callable[..., Partition]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            iid,
            dirichlet,
            dirichlet_by_class,
            shards,
            similarity,
            label_count,
            label_lognormal,
            pachinko,
            quantity_skew,
            quantity_dirichlet,
            quantity_lognormal,
            clusters,
            octants,
            natural,
            grouped,
        )
    }
)
"""What `partition` can name: the functions of this module, by their names."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "homo": "iid",
        "hetero": "dirichlet_by_class:0.5,min_size=10,capped=true",
        "noniid-labeldir": "dirichlet_by_class:0.5,min_size=10,capped=true",
        "noniid-#label1": "label_count:1",
        "noniid-#label2": "label_count:2",
        "noniid-#label3": "label_count:3",
        "iid-diff-quantity": "quantity_dirichlet:0.5,min_size=10",
        "real": "grouped",
        "pathological": "shards:2",
    }
)
"""The names of FedML and NIID-Bench → what they are here."""

_GIVEN = frozenset({"labels", "num_samples", "num_clients", "rng", "x", "owners", "coarse"})
"""Parameters that come from the data and the caller; the others are options of a scheme."""

_TRUTH = {"true": True, "false": False}


def partition(
    scheme: str,
    labels: npt.ArrayLike,
    num_clients: int,
    rng: np.random.Generator,
    *,
    x: npt.ArrayLike | None = None,
    owners: npt.ArrayLike | None = None,
    coarse: npt.ArrayLike | None = None,
) -> Partition:
    """A partition by its name and options, as text: `NAME`, `NAME:VALUE`, or `NAME:VALUE,OPTION=VALUE`.

    Args:
        scheme: a name of `SCHEMES` or `ALIASES`, for example `dirichlet:0.5`, `shards:2`, `quantity_skew:1.2`. Values
            without a name are the function's options in their order. Every scheme takes `min_size=` as well: where it
            has no such option of its own, clients with fewer samples are given random ones of the largest (`at_least`).
        labels: shape (n,), one for each sample; of schemes that look at no labels, anything of that length.
        num_clients: how many clients share the samples; `natural` has as many as there are owners, and refuses others.
        rng: the only source of randomness.
        x: shape (n, …), the features, for `clusters` and `octants`.
        owners: shape (n,), who made each sample, for `natural` and `grouped`.
        coarse: shape (n,), the label above each label, for `pachinko`.

    Raises:
        InputError: there is no such scheme or option, something that it needs is not given, or it cannot be met.

    """
    kind, _, rest = ALIASES.get(scheme, scheme).partition(":")
    if kind not in SCHEMES:
        known = [*SCHEMES, *ALIASES]
        alike = get_close_matches(kind, known, n=1)
        meant = f"; do you mean {alike[0]}?" if alike else ""
        raise InputError(f"there is no partition {kind!r}; there is: {', '.join(known)}{meant}")
    function = SCHEMES[kind]
    chosen = _parsed(kind, rest)
    least = chosen.pop("min_size", 0) if "min_size" not in options(kind) else 0
    parameters = inspect.signature(function).parameters
    array = _labels(kind, labels) if "labels" in parameters else np.asarray(labels)
    there: dict[str, Any] = {"labels": array, "num_samples": len(array), "num_clients": num_clients, "rng": rng}
    there |= {name: np.asarray(a) for name, a in (("x", x), ("owners", owners), ("coarse", coarse)) if a is not None}
    for name in parameters:
        if name in _GIVEN and name not in there:
            raise InputError(f"the partition {kind} needs {name}: give {name}=, one for each sample")
        if name in {"x", "owners", "coarse"} and len(there[name]) != len(array):
            raise InputError(f"{name} has {len(there[name])} samples, but there are {len(array)} labels")
        if name not in _GIVEN and parameters[name].default is inspect.Parameter.empty and name not in chosen:
            raise InputError(f"the partition {kind} needs {name}: write {kind}:{name.upper()}, for example {kind}:2")
    parts = function(**{name: there[name] for name in parameters if name in _GIVEN}, **chosen)
    if len(parts) != num_clients:
        raise InputError(f"the data have {len(parts)} owners, and so many clients, not {num_clients}; or use grouped")
    return at_least(parts, least, rng) if least else parts


def _labels(kind: str, targets: npt.ArrayLike) -> npt.NDArray[Any]:
    """Targets that are one label for each sample."""
    array = np.asarray(targets)
    fractions = array.dtype.kind == "f" and not np.array_equal(array, np.round(array))
    if array.ndim != 1 or fractions:
        what = "fractions" if fractions else f"of the shape {array.shape}"
        raise InputError(
            f"the partition {kind} is by labels, a whole number or a text for each sample, and the targets are {what}: "
            "take iid or one by quantity, give labels of your own to hansa.data.partition.partition, or a list of what "
            "each client has"
        )
    return array


def options(kind: str) -> dict[str, inspect.Parameter]:
    """The options of a scheme, in their order."""
    parameters = inspect.signature(SCHEMES[kind]).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in _GIVEN}


def _parsed(kind: str, text: str) -> dict[str, Any]:
    """`0.5,min_size=10` as options."""
    known: dict[str, type] = {name: parameter.annotation for name, parameter in options(kind).items()}
    in_order = list(known)
    known.setdefault("min_size", int)
    chosen: dict[str, Any] = {}
    for place, piece in enumerate(text.split(",") if text else []):
        name, equals, value = piece.strip().partition("=")
        if not equals:
            if place >= len(in_order):
                raise InputError(f"{kind}:{text} has a value too many; its options are {', '.join(known)}")
            name, value = in_order[place], name
        if name not in known:
            raise InputError(f"the partition {kind} has no option {name!r}; it has: {', '.join(known)}")
        if name in chosen:
            raise InputError(f"{kind}:{text} gives {name} twice")
        chosen[name] = _value(kind, name, value, known[name])
    return chosen


def _value(kind: str, name: str, text: str, wanted: type) -> bool | float:
    try:
        return _TRUTH[text.lower()] if wanted is bool else wanted(text)
    except (KeyError, ValueError):
        kinds = {bool: "true or false", int: "a whole number"}
        raise InputError(
            f"the partition {kind}: {name} is {text!r}; it must be {kinds.get(wanted, 'a number')}"
        ) from None
