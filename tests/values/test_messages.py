"""What travels."""

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.arrays import Arrays
from hansa.errors import InputError
from hansa.messages import ClientInfo, GradientCorrection, Metrics, Task, Update, merge_metrics


def task() -> Task:
    return Task(ClientInfo("ada"), 1, np.random.default_rng(0))


def test_an_update_takes_any_mapping_of_arrays():
    update = Update({"w": [1.0]}, np.int64(3), {"loss": np.float32(0.5)})
    assert update.arrays == Arrays({"w": [1.0]})
    assert type(update.num_examples) is int
    assert type(update.metrics["loss"]) is float


def test_an_update_keeps_arrays_that_are_arrays_already():
    arrays = Arrays({"w": [1.0]})
    assert Update(arrays, 1).arrays is arrays


@pytest.mark.parametrize("n", [1.0, "3", None, True, np.float32(2)])
def test_a_number_of_examples_is_a_whole_number(n: object):
    with pytest.raises(InputError, match="the number of examples must be a whole number"):
        Update({}, n)
    with pytest.raises(InputError, match="the number of examples must be a whole number"):
        Metrics({}, n)


@pytest.mark.parametrize("metrics", [{"loss": "low"}, {"loss": None}, {"loss": [1.0, 2.0]}, [("loss", 1.0)], 0.5])
def test_metrics_are_numbers_by_name(metrics: object):
    with pytest.raises(InputError, match="metrics must be a mapping of name to number"):
        Update({}, 1, metrics)
    with pytest.raises(InputError, match="metrics must be a mapping of name to number"):
        Metrics(metrics, 1)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (Update({}, 1), "num_examples"),
        (Metrics({}, 1), "values"),
        (ClientInfo("ada"), "name"),
        (GradientCorrection(), "proximal"),
    ],
)
def test_values_are_frozen(value: object, field: str):
    with pytest.raises(FrozenInstanceError):
        setattr(value, field, 2)


def test_a_task_tells_whether_its_correction_was_read():
    asked = task().corrected_by(GradientCorrection(proximal=0.5))
    assert asked.ignored_correction
    assert asked.correction == GradientCorrection(proximal=0.5)
    assert not asked.ignored_correction


def test_a_task_without_a_correction_ignores_none():
    assert not task().ignored_correction
    assert task().correction is None
    assert not task().corrected_by(None).ignored_correction


def test_a_corrected_task_is_another_with_the_same_random_numbers():
    first = task()
    second = first.corrected_by(GradientCorrection(proximal=1.0))
    assert first.correction is None
    assert second.rng is first.rng
    assert second.client == first.client


def test_a_new_correction_has_not_been_read():
    asked = task().corrected_by(GradientCorrection(proximal=0.5))
    assert asked.correction is not None
    assert asked.corrected_by(GradientCorrection(proximal=1.0)).ignored_correction


def test_progress_goes_nowhere_until_somebody_listens():
    heard: list[tuple[float, float]] = []
    task().progress(1, 2)
    replace(task(), progress=lambda done, total: heard.append((done, total))).progress(1, 2)
    assert heard == [(1, 2)]


def test_metrics_merge_by_their_examples():
    # loss: (1·0.5 + 3·1.5)/4 = 1.25; accuracy only where it was reported
    merged = merge_metrics([({"loss": 0.5}, 1), ({"loss": 1.5, "accuracy": 0.25}, 3)])
    assert merged == {"accuracy": Metrics({"accuracy": 0.25}, 3), "loss": Metrics({"loss": 1.25}, 4)}


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.floats(), st.integers(1, 10**6)), min_size=1, max_size=8).flatmap(
        lambda reports: st.tuples(st.just(reports), st.permutations(reports))
    )
)
def test_metrics_merge_to_the_same_bits_in_any_order(orders: tuple[list[tuple[float, int]], list[tuple[float, int]]]):
    first, second = (merge_metrics([({"loss": value}, n) for value, n in order])["loss"] for order in orders)
    assert first.num_examples == second.num_examples
    assert np.float64(first.values["loss"]).tobytes() == np.float64(second.values["loss"]).tobytes()


@pytest.mark.parametrize(
    "values", [(math.nan, 1.0), (math.inf, 1.0), (math.inf, -math.inf), (1e308, 1e308), (1.7e308,)]
)
def test_a_metric_without_a_finite_mean_is_nan(values: tuple[float, ...]):
    merged = merge_metrics([({"loss": value}, 2) for value in values])["loss"]
    assert math.isnan(merged.values["loss"])
    assert merged.num_examples == 2 * len(values)


def test_the_sum_of_large_metrics_overflows_to_nan():
    assert math.isnan(merge_metrics([({"loss": 1.7e308}, 1)] * 2)["loss"].values["loss"])


def test_metrics_of_no_examples_are_nan():
    assert math.isnan(merge_metrics([({"loss": 1.0}, 0)])["loss"].values["loss"])


def test_no_reports_merge_to_no_metrics():
    assert merge_metrics([]) == {}
    assert merge_metrics([({}, 5)]) == {}
