"""The largest changes of each tensor travel; the rest waits, and is added to the client's next update.

    v = Δ + e;  send the k = ⌈share·n⌉ values of v with the largest |v|, 0 for the others;  e ← v − sent

Stich, Cordonnier, Jaggi: "Sparsified SGD with Memory", NeurIPS 2018, arXiv:1809.07599. Lin, Han, Mao, Wang, Dally:
"Deep Gradient Compression", ICLR 2018, arXiv:1712.01887. e is the client's memory: it starts at 0, never travels, and
is current for the update that counted last. A client that seldom takes part sends what has become old.
"""

import math
from dataclasses import replace

import numpy as np

from hansa.algorithm import Bound, Stage, Transform
from hansa.arrays import Array, Arrays, is_floating
from hansa.compression.options import checked_flag, checked_share
from hansa.messages import Packing, Update

__all__ = ["largest", "top_k"]


def top_k(before: Bound, *, share: float = 0.01, feedback: bool = True) -> Transform:
    """share: of a tensor's values that travel, above 0 and at most 1; feedback: whether what is left out is kept.

    With feedback a bound on the norm is lost: what was kept is added to what was clipped.
    """
    part, feeds = checked_share("top-k", "share", share), checked_flag("top-k", "feedback", feedback)

    def apply(update: Update, _rng: np.random.Generator) -> Update:
        kept: Arrays = update.memory if feeds and update.memory is not None else Arrays()
        sent, rest, packing = dict(update.arrays), {}, dict(update.packing)
        for name, array in update.arrays.items():
            if not is_floating(array):
                continue
            wanted = array + kept[name] if name in kept and kept[name].shape == array.shape else array
            chosen = largest(wanted, part)
            sent[name] = np.where(chosen, wanted, wanted.dtype.type(0))
            rest[name] = np.where(chosen, wanted.dtype.type(0), wanted)
            packing[name] = replace(packing.get(name, Packing()), sparse=True)
        return replace(update, arrays=Arrays(sent), packing=packing, memory=Arrays(rest) if feeds else None)

    return Transform("top-k", apply, Stage.SELECT, bound=Bound() if feeds else before, keeps_memory=feeds)


def largest(array: Array, share: float) -> Array:
    """Where the ⌈share·n⌉ largest are; of equal ones the first, on every machine."""
    count = math.ceil(share * array.size)
    if count >= array.size:
        return np.ones(array.shape, np.bool_)
    sizes = np.abs(array).reshape(-1)
    threshold = np.partition(sizes, sizes.size - count)[sizes.size - count]
    chosen = sizes > threshold
    ties = np.flatnonzero(sizes == threshold)[: count - int(np.count_nonzero(chosen))]
    chosen[ties] = True
    return np.asarray(chosen.reshape(array.shape))
