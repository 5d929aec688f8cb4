"""Every dtype that a model may have, from training to the next model, with numbers by hand."""

import time
from typing import Any

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.fedavg import fedavg
from hansa.arrays import DTYPES, Arrays, subtract
from hansa.errors import Reason, UpdateRejectedError
from hansa.messages import Contribution, Update
from hansa.testing.federation import aggregate

FEDAVG = fedavg(WeightedMean())


def averaged(before: Any, *trained: tuple[Any, int], dtype: str) -> np.ndarray:
    """The tensor after a round of FedAvg in which clients trained it to these values, with these weights."""
    model = Arrays({"t": np.array(before, DTYPES[dtype])})
    sent = {
        f"client-{index}": Update(subtract(Arrays({"t": np.array(value, DTYPES[dtype])}), model), n)
        for index, (value, n) in enumerate(trained)
    }
    after = FEDAVG.server_update(FEDAVG.init(model), aggregate(FEDAVG, model, sent)).params["t"]
    assert after.dtype == model["t"].dtype
    assert after.shape == model["t"].shape
    return after


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_floating_tensors_average_by_weight(dtype: str):
    # 1 + (1·0.5 + 3·1)/4 = 1.875, and -2 + (1·0 + 3·2)/4 = -0.5, exactly in every floating dtype
    after = averaged([1.0, -2.0], ([1.5, -2.0], 1), ([2.0, 0.0], 3), dtype=dtype)
    assert after.astype(np.float64).tolist() == [1.875, -0.5]


@pytest.mark.parametrize("dtype", ["I8", "I16", "I32", "I64"])
def test_signed_integers_round_half_to_even(dtype: str):
    # Changes 3 and 4: 3.5 → 4; 1 and 2: 1.5 → 2; 0 and 1: 0.5 → 0; -1 and -2: -1.5 → -2; 0 and -1: -0.5 → 0
    after = averaged([10] * 5, ([13, 11, 10, 9, 10], 1), ([14, 12, 11, 8, 9], 1), dtype=dtype)
    assert after.tolist() == [14, 12, 10, 8, 10]


@pytest.mark.parametrize("dtype", ["U8", "U16", "U32", "U64"])
def test_unsigned_integers_go_down_too(dtype: str):
    # 10 + (3·(-10) + 1·2)/4 = 10 - 7 = 3
    assert averaged([10], ([0], 3), ([12], 1), dtype=dtype).tolist() == [3]


@pytest.mark.parametrize("dtype", ["U8", "I8", "U16", "I16", "U32", "I32"])
def test_integers_cross_their_whole_range(dtype: str):
    limits = np.iinfo(DTYPES[dtype])
    assert averaged([limits.min], ([limits.max], 5), dtype=dtype).tolist() == [limits.max]
    assert averaged([limits.max], ([limits.min], 5), dtype=dtype).tolist() == [limits.min]


@pytest.mark.parametrize("dtype", ["U64", "I64"])
def test_64_bit_integers_average_at_both_ends(dtype: str):
    low, high = np.iinfo(DTYPES[dtype]).min, np.iinfo(DTYPES[dtype]).max
    # Changes -1 and -3 of the largest, 1 and 3 of the smallest: 2 each
    after = averaged([high, low], ([high - 1, low + 1], 1), ([high - 3, low + 3], 1), dtype=dtype)
    assert after.tolist() == [high - 2, low + 2]


@pytest.mark.parametrize("dtype", ["U64", "I64"])
def test_64_bit_integers_that_cross_their_whole_range_are_rejected_and_do_not_wrap(dtype: str):
    # 2^64 - 1 modulo 2^64 would pass as a change of -1.
    low, high = np.iinfo(DTYPES[dtype]).min, np.iinfo(DTYPES[dtype]).max
    for before, after in ((low, high), (high, low)):
        with pytest.raises(UpdateRejectedError) as error:
            averaged([before], ([after], 1), dtype=dtype)
        assert error.value.reason == Reason.OUT_OF_RANGE


def test_bools_follow_the_majority_and_a_tie_keeps_the_old_value():
    before = [False, False, True, True]
    tie = averaged(before, ([True, False, False, True], 1), ([False, False, True, True], 1), dtype="BOOL")
    assert tie.tolist() == before
    decided = averaged(before, ([True, False, False, True], 3), ([False, True, True, False], 1), dtype="BOOL")
    assert decided.tolist() == [True, False, False, True]


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_tensor_without_a_dimension_stays_without_one(dtype: str):
    assert averaged(1, (0, 2), (0, 3), dtype=dtype).tolist() == 0


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_a_tensor_without_an_element_stays_so(dtype: str, shape: tuple[int, ...]):
    empty = np.zeros(shape)
    assert averaged(empty, (empty, 2), (empty, 3), dtype=dtype).size == 0


def test_a_model_without_a_tensor_still_counts_its_contributors():
    sent = {"ada": Update({}, 2), "bo": Update({}, 3)}
    report = aggregate(FEDAVG, Arrays(), sent)
    assert report.weight == 5
    assert FEDAVG.server_update(FEDAVG.init(Arrays()), report).params == Arrays()


def test_blocks_join_without_a_seam():
    # Larger than a block of 2^16, and not a multiple of it
    rng = np.random.default_rng(0)
    model = Arrays({"t": np.zeros((3, 50_001), np.float32)})
    change = rng.integers(-(2**20), 2**20, (3, 50_001)).astype(np.float32) / 2**20
    sent = {"ada": Update({"t": change}, 1), "bo": Update({"t": -change / 2}, 1)}
    # (x - x/2)/2 = x/4, exactly
    assert np.array_equal(aggregate(FEDAVG, model, sent).mean["t"], change / 4)


def test_ten_thousand_tensors_fold_in_well_under_a_second():
    aggregator = WeightedMean()
    model = Arrays({f"layer.{index}.weight": np.zeros(16, np.float32) for index in range(10_000)})
    change = Arrays({name: np.full(16, 0.25, np.float32) for name in model})
    plan = aggregator.plan(model)
    partial, seconds = aggregator.zero(plan), []
    for index in range(3):
        started = time.perf_counter()
        aggregator.accumulate(plan, partial, Update(change, 2), Contribution(f"client-{index}", 2))
        seconds.append(time.perf_counter() - started)
    assert aggregator.report(plan, partial).mean == change
    assert min(seconds) < 1
