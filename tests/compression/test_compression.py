"""Quantization, top-k with error feedback and random masks: each against its paper's definition."""

from collections.abc import Callable

import numpy as np
import pytest

from hansa.algorithm import Bound, Transform
from hansa.arrays import Arrays, norm
from hansa.compression.mask import drawn, random_mask
from hansa.compression.quantize import BUCKET, quantize
from hansa.compression.top_k import top_k
from hansa.errors import ConfigError
from hansa.messages import Update

SEED = bytes(range(32))


def update_of(*values: float, dtype: type = np.float32) -> Update:
    return Update({"w": np.array(values, dtype)}, 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ── quantize ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("bits", "top"), [(8, 127), (4, 7)])
def test_every_value_is_a_neighbouring_whole_number_of_steps(bits: int, top: int):
    values = rng(1).normal(size=3 * BUCKET + 5).astype(np.float32)
    out = quantize(Bound(), bits=bits).apply(Update({"w": values}, 1), rng())
    steps = np.repeat(out.packing["w"].steps.astype(float), BUCKET)[: values.size]  # type: ignore[union-attr]
    levels = out.arrays["w"] / steps
    assert np.array_equal(levels, np.rint(levels))
    assert np.abs(levels).max() <= top
    assert np.all(np.abs(out.arrays["w"] - values) < steps)
    largest = [np.abs(values[k : k + BUCKET]).max() for k in range(0, values.size, BUCKET)]
    assert out.packing["w"].steps == pytest.approx(np.array(largest) / top, rel=2**-15)  # type: ignore[union-attr]


def test_a_value_between_two_levels_is_rounded_up_as_often_as_it_is_near_to_the_upper():
    values = np.full(200_000, 0.3, np.float64)
    values[::BUCKET] = 7.0
    out = quantize(Bound(), bits=4).apply(Update({"w": values}, 1), rng(2)).arrays["w"]
    between = out[values == 0.3]
    assert set(between) == {0.0, 1.0}
    assert between.mean() == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / between.size) ** 0.5)


def test_what_cannot_be_rounded_is_left_alone():
    update = Update({"n": np.array([5]), "e": np.zeros((0, 3), np.float32), "x": np.array([np.nan, 1.0])}, 1)
    out = quantize(Bound()).apply(update, rng())
    assert out.arrays == update.arrays
    assert not out.packing


def test_tiny_values_are_right_in_the_mean_and_no_denormals():
    out = quantize(Bound(), bits=8).apply(update_of(*[1e-38] * 1000), rng()).arrays["w"]
    assert set(np.unique(out)) <= {np.float32(0), np.float32(2.0**-120)}


def test_with_keep_norm_an_update_is_no_longer_than_it_was_clipped_to():
    values = rng(3).normal(size=1000)
    values = (values / np.linalg.norm(values)).astype(np.float32) * np.float32(0.9999)
    longer = quantize(Bound(1.0), bits=4).apply(Update({"w": values}, 1), rng()).arrays
    kept = quantize(Bound(1.0), bits=4, keep_norm=True)
    assert norm(longer) > 1.0 >= norm(kept.apply(Update({"w": values}, 1), rng()).arrays) > 0.99
    assert kept.bound == Bound(1.0)
    assert quantize(Bound(1.0)).bound == Bound()


# ── top-k ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_largest_travel_and_the_rest_is_added_to_the_next_update():
    transform = top_k(Bound(), share=0.5)
    first = transform.apply(update_of(3, -1, 2, -4), rng())
    assert first.arrays["w"].tolist() == [3, 0, 0, -4]
    assert first.memory is not None
    assert first.memory["w"].tolist() == [0, -1, 2, 0]
    second = transform.apply(Update({"w": np.array([0, -1, 1, 1], np.float32)}, 1, memory=first.memory), rng())
    assert second.arrays["w"].tolist() == [0, -2, 3, 0]
    assert second.memory is not None
    assert second.memory["w"].tolist() == [0, 0, 0, 1]


def test_nothing_is_lost_and_nothing_is_sent_twice():
    """Σ sent + what is left = Σ Δ, exactly where the numbers are whole."""
    transform, memory, sent = top_k(Bound(), share=0.1), None, np.zeros(50)
    changes = rng(4).integers(-9, 10, (30, 50)).astype(np.float32)
    for change in changes:
        out = transform.apply(Update({"w": change}, 1, memory=memory), rng())
        assert np.count_nonzero(out.arrays["w"]) <= 5
        sent, memory = sent + out.arrays["w"], out.memory
    assert memory is not None
    assert np.array_equal(sent + memory["w"], changes.sum(axis=0))


def test_of_equal_values_the_first_are_chosen_on_every_machine():
    out = top_k(Bound(), share=0.5, feedback=False).apply(update_of(1, -1, 1, -1, 2, 1), rng())
    assert out.arrays["w"].tolist() == [1, -1, 0, 0, 2, 0]
    assert out.memory is None


def test_at_least_one_value_of_each_tensor_travels_and_whole_numbers_all():
    update = Update({"a": np.array([0.5, 0.1]), "n": np.array([1, 2]), "e": np.zeros(0)}, 1)
    out = top_k(Bound(), share=1e-9).apply(update, rng())
    assert [out.arrays[name].tolist() for name in out.arrays] == [[0.5, 0.0], [1, 2], []]


def test_without_feedback_a_bound_is_kept_and_with_it_lost():
    assert top_k(Bound(1.0), feedback=False).bound == Bound(1.0)
    assert top_k(Bound(1.0)).bound == Bound()


def test_a_memory_of_another_model_is_not_added():
    other = Arrays({"w": np.ones(3, np.float32)})
    out = top_k(Bound(), share=1.0).apply(Update({"w": np.zeros(2, np.float32)}, 1, memory=other), rng())
    assert out.arrays["w"].tolist() == [0, 0]


# ── random-mask ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_positions_are_those_of_keyed_blake3():
    """So that a client in another language draws the same: the first ten of these, written down."""
    assert np.flatnonzero(drawn(SEED, "layer.weight", 60, 2**30))[:10].tolist() == [
        2,
        5,
        10,
        12,
        20,
        27,
        29,
        31,
        37,
        40,
    ]


def test_a_share_is_drawn_and_divided_by_it():
    out = random_mask(Bound(1.0), share=0.25).apply(Update({"w": np.ones(100_000, np.float32)}, 1), rng())
    assert set(np.unique(out.arrays["w"])) == {0, 4}
    assert np.count_nonzero(out.arrays["w"]) / 100_000 == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 1e5) ** 0.5)
    assert random_mask(Bound(1.0), share=0.25).bound.norm == pytest.approx(4.0, rel=1e-6)
    assert random_mask(Bound(1.0), share=0.25, rescale=False).bound == Bound(1.0)


def test_positions_do_not_depend_on_the_size_of_blocks():
    size = 600_000
    assert np.array_equal(drawn(SEED, "w", size, 2**31)[:70], drawn(SEED, "w", 70, 2**31))
    assert drawn(SEED, "w", size, 2**31).mean() == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("make", [top_k, random_mask])
def test_with_the_share_1_an_update_is_left_as_it_is(make: Callable[..., Transform]):
    update = update_of(0.1, -0.0, 3e-40)
    assert make(Bound(), share=1.0).apply(update, rng()).arrays == update.arrays


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (quantize, {"bits": 3}, "quantize: bits is 3; it must be 8 or 4"),
        (quantize, {"keep_norm": 1}, "quantize: keep_norm is 1; it must be true or false"),
        (top_k, {"share": 0}, "top-k: share is 0; it must be a number above 0 and at most 1"),
        (top_k, {"feedback": "no"}, "top-k: feedback is 'no'; it must be true or false"),
        (random_mask, {"share": 1.5}, "random-mask: share is 1.5; it must be a number above 0 and at most 1"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(make: Callable[..., Transform], options: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said):
        make(Bound(), **options)
