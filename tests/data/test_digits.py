import subprocess
import sys

import numpy as np
import pytest

from hansa.data import digits


def test_the_digits_are_those_that_scikit_learn_loads() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    split = digits.read(test_fraction=0.0)
    order = np.random.default_rng(0).permutation(1797)
    np.testing.assert_array_equal(split.train.x * 16, x[order])
    np.testing.assert_array_equal(split.train.y, y[order])
    assert len(split.test.y) == 0


def test_a_fifth_is_kept_for_testing_and_no_example_is_in_both_parts() -> None:
    split = digits.read()
    assert (split.train.x.shape, split.test.x.shape) == ((1438, 64), (359, 64))
    assert split.train.x.dtype == np.float32
    rows = {row.tobytes() for row in split.train.x} | {row.tobytes() for row in split.test.x}
    assert len(rows) == len(np.unique(np.concatenate([split.train.x, split.test.x]), axis=0))


def test_reading_the_digits_does_not_import_scikit_learn() -> None:
    program = "import sys; from hansa.data import digits; digits.read(); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
