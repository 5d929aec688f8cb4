"""Arrays on disk: what was written is read, nothing is left behind."""

import os
from pathlib import Path

import numpy as np
import pytest

from hansa.aggregators.columns import median
from hansa.aggregators.mean import WeightedMean
from hansa.arrays import Arrays
from hansa.store.spool import Spool, empty_partial, scratch


def test_what_was_written_is_read_also_after_more_was_written(tmp_path: Path):
    spool = Spool(tmp_path)
    arrays = {
        "a": np.arange(5, dtype=np.uint8),
        "b": np.ones((2, 3), np.float32)[:, ::2],
        "none": np.zeros((0, 3)),
        "point": np.array(7),
    }
    first = None
    for name, array in arrays.items():
        spool[name] = array
        first = spool["a"] if first is None else first
    assert list(spool) == list(arrays)
    assert len(spool) == 4
    for name, array in arrays.items():
        assert spool[name].dtype == array.dtype
        assert np.array_equal(spool[name], array)
    assert np.array_equal(first, arrays["a"])
    assert not first.flags.writeable
    assert first.ctypes.data % 64 == 0
    del spool["a"]
    with pytest.raises(KeyError):
        spool["a"]


def test_a_name_that_is_written_again_has_the_new_array():
    spool = Spool()
    spool["a"] = np.zeros(3)
    spool["a"] = np.ones(2)
    assert spool["a"].tolist() == [1, 1]
    assert len(spool) == 1


def test_no_file_has_a_name_and_views_outlive_the_spool(tmp_path: Path):
    spool = Spool(tmp_path)
    spool["a"] = np.arange(1000)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - the shortest way to say it
    view = spool["a"]
    del spool
    assert view.sum() == 499_500


def test_a_folder_that_is_not_there_is_an_error_and_nothing_is_noted(tmp_path: Path):
    spool = Spool(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        spool["a"] = np.zeros(3)
    assert len(spool) == 0


def test_scratch_is_writable_and_has_no_name(tmp_path: Path):
    room = scratch(10_000, tmp_path)
    room[5:8] = b"abc"
    assert (len(room), bytes(room[4:9])) == (10_000, b"\0abc\0")
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - the same


def test_only_aggregators_that_keep_updates_have_a_spool():
    model = Arrays({"w": np.zeros(3)})
    assert isinstance(empty_partial(median(), median().plan(model)).sums, Spool)
    assert isinstance(empty_partial(WeightedMean(), WeightedMean().plan(model)).sums, dict)
