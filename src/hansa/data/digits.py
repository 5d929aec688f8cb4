"""scikit-learn's bundled handwritten digits: 1,797 images of 8 × 8 pixels, ten labels.

The file is read from the installed package without importing it, which would take seconds in each of many processes.

Alpaydin, Kaynak: "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hansa.data.examples import Examples, Split
from hansa.errors import MissingExtraError

__all__ = ["read"]

_DARKEST = 16.0
"""Pixels are whole numbers from 0 to this."""


def read(*, test_fraction: float = 0.2, seed: int = 0) -> Split:
    """Inputs float32 of shape (n, 64), 0 to 1; labels int64 of shape (n,), 0 to 9.

    test_fraction: 0 ≤ f < 1 of the examples, drawn with `seed`, are for testing: 359 and 1,438 for training.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError("the digits data set", "sklearn")
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    examples = Examples(table[:, :-1] / np.float32(_DARKEST), table[:, -1].astype(np.int64))
    order = np.random.default_rng(seed).permutation(len(table))
    num_test = int(test_fraction * len(table))
    return Split(train=examples.take(order[num_test:]), test=examples.take(order[:num_test]))
