"""A random part of the values travels, and of their positions only a seed.

    m_i ~ Bernoulli(p);  send m_i Δ_i / p, which is right in the mean

Konečný, McMahan, Yu, Richtárik, Suresh, Bacon: "Federated Learning: Strategies for Improving Communication Efficiency",
2016, arXiv:1610.05492, "random mask" and "subsampling".
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from hansa.algorithm import Bound, Stage, Transform
from hansa.arrays import Arrays, is_floating
from hansa.compression.options import checked_flag, checked_share
from hansa.messages import Packing, Update

__all__ = ["ALL", "SEED", "drawn", "random_mask"]

ALL = 2**32
"""The share that draws every position."""

SEED = 32
"""Bytes of a seed."""

_ROUNDED = 1 + 2.0**-22
"""More than a value grows by rounding when it is divided in float32."""

_BLOCK = 256 * 1024
_WORD = 4


def random_mask(before: Bound, *, share: float = 0.1, rescale: bool = True) -> Transform:
    """share: p of the values, above 0 and at most 1; rescale: whether they are divided by p, so that the mean is right.

    Then a bound on the norm grows by 1/p.
    """
    part, rescales = checked_share("random-mask", "share", share), checked_flag("random-mask", "rescale", rescale)
    words = max(1, round(part * ALL))
    factor = ALL / words if rescales else 1.0

    def apply(update: Update, rng: np.random.Generator) -> Update:
        seed = rng.bytes(SEED)
        sent, packing = dict(update.arrays), dict(update.packing)
        for name, array in update.arrays.items():
            if is_floating(array) and words < ALL:
                kept = drawn(seed, name, array.size, words).reshape(array.shape)
                sent[name] = np.where(kept, array * array.dtype.type(factor), array.dtype.type(0))
                packing[name] = replace(packing.get(name, Packing()), seed=seed, share=words)
        return replace(update, arrays=Arrays(sent), packing=packing)

    bound = Bound(before.norm * (factor * _ROUNDED if factor > 1 else 1), before.order)
    return Transform("random-mask", apply, Stage.SELECT, bound=bound, unbiased=rescales)


def drawn(seed: bytes, name: str, size: int, share: int) -> npt.NDArray[np.bool_]:
    """Which of a tensor's elements a seed draws.

    Element i, counted in C order, is drawn when the i-th 4 bytes of the extended output of BLAKE3, keyed with the seed,
    over the tensor's name in UTF-8, read as a little-endian number, are below `share`, 0 ≤ share ≤ 2^32.
    """
    hasher = blake3(name.encode(), key=seed)
    kept = np.empty(size, np.bool_)
    for start in range(0, size, _BLOCK):
        count = min(_BLOCK, size - start)
        words = np.frombuffer(hasher.digest(length=_WORD * count, seek=_WORD * start), "<u4")
        np.less(words, share, out=kept[start : start + count])
    return kept
