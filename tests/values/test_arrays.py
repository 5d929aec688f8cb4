"""`Arrays` and the arithmetic on them."""

from collections.abc import Mapping
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.arrays import (
    DTYPES,
    Arrays,
    add,
    apply,
    check_same_structure,
    constant_change,
    delta_dtype,
    first_difference,
    is_floating,
    length,
    lengths,
    map_floating,
    norm,
    scale,
    subtract,
    zeros_like,
)
from hansa.errors import ArraysMismatchError
from hansa.testing.values import models

INTEGERS = ["U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"]

many = settings(derandomize=True, deadline=None, max_examples=200)


def test_keeps_names_in_the_order_that_they_were_given():
    assert list(Arrays({"b": [1.0], "a": [2.0], "c": [3.0]})) == ["b", "a", "c"]


def test_is_a_mapping_of_arrays():
    arrays = Arrays({"w": [[1.0, 2.0]], "n": 3})
    assert isinstance(arrays, Mapping)
    assert len(arrays) == 2
    assert "w" in arrays
    assert arrays["w"].shape == (1, 2)
    assert arrays["n"].shape == ()
    assert repr(arrays) == "Arrays(2 tensors, 24 bytes)"
    assert Arrays() == Arrays({})


@pytest.mark.parametrize("wrong", [[np.zeros(2)], np.zeros(2), "weights", 3])
def test_is_made_of_nothing_but_a_mapping(wrong: object):
    with pytest.raises(
        ArraysMismatchError, match=f"made of a mapping of tensor name to array, not of a {type(wrong).__name__}"
    ):
        Arrays(wrong)


def test_its_arrays_cannot_be_changed_through_it():
    given_array = np.zeros(3)
    arrays = Arrays({"w": given_array})
    with pytest.raises(ValueError, match="read-only"):
        arrays["w"][0] = 1.0
    with pytest.raises(TypeError):
        arrays["w"] = given_array  # type: ignore[index]
    assert given_array.flags.writeable, "the caller's own array stays the caller's"


def test_does_not_copy_what_is_contiguous():
    array = np.arange(6.0)
    assert np.shares_memory(Arrays({"w": array})["w"], array)


def test_makes_arrays_contiguous_and_little_endian():
    arrays = Arrays({"t": np.arange(6.0).reshape(2, 3).T, "b": np.array([1.5, -2.0], ">f4"), "i": np.array([7], ">i8")})
    assert arrays["t"].flags.c_contiguous
    assert arrays["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert arrays["b"].dtype == np.dtype("<f4")
    assert arrays["b"].tolist() == [1.5, -2.0]
    assert arrays["i"].tolist() == [7]


@pytest.mark.parametrize(
    "value",
    [
        "text",
        [None],
        np.array([1j]),
        np.array(["2026-01-01"], "M8[D]"),
        np.zeros(2, np.longdouble),
        [[1.0], [1.0, 2.0]],
        np.zeros(1, [("x", "f4")]),
        object(),
        ml_dtypes.float8_e5m2(1),
    ],
    ids=["text", "none", "complex", "date", "longdouble", "ragged", "record", "object", "float8"],
)
def test_refuses_what_is_not_numbers_by_the_name_of_the_tensor(value: object):
    with pytest.raises(ArraysMismatchError, match="tensor 'w'"):
        Arrays({"w": value})


@pytest.mark.parametrize("name", ["", 3, None, b"w"])
def test_refuses_a_name_that_is_not_a_string(name: object):
    with pytest.raises(ArraysMismatchError, match="must be a non-empty string"):
        Arrays({name: 1.0})


def test_equality_is_of_bits():
    nan = Arrays({"w": np.array([np.nan])})
    assert nan == Arrays({"w": np.array([np.nan])})
    assert Arrays({"w": np.array([0.0])}) != Arrays({"w": np.array([-0.0])})
    assert Arrays({"w": np.zeros(1, np.float32)}) != Arrays({"w": np.zeros(1, np.int32)})
    assert Arrays({"w": np.zeros((2, 1))}) != Arrays({"w": np.zeros((1, 2))})
    assert Arrays({"a": 1.0, "b": 2.0}) != Arrays({"b": 2.0, "a": 1.0})
    assert Arrays({"w": 1.0}) != {"w": np.array(1.0)}
    with pytest.raises(TypeError, match="unhashable"):
        hash(nan)


@pytest.mark.parametrize(
    ("right", "name"),
    [
        ({"a": 1.0, "b": 2.0}, None),
        ({"a": 1.0, "b": 2.5}, "b"),
        ({"a": np.float32(1), "b": 2.5}, "a"),
        ({"a": 1.0}, "b"),
        ({"a": 1.0, "b": 2.0, "c": 3.0}, "c"),
        ({"b": 2.0, "a": 1.0}, "a"),
        ({}, "a"),
    ],
)
def test_names_the_first_tensor_that_differs(right: dict[str, float], name: str | None):
    assert first_difference(Arrays({"a": 1.0, "b": 2.0}), Arrays(right)) == name


@pytest.mark.parametrize(
    ("actual", "said"),
    [
        ({"a": [1.0, 2.0]}, r"the update lacks \['b'\]: its tensors must be the model's, \['a', 'b'\]"),
        ({"a": [1.0, 2.0], "b": 1, "c": 1}, r"the update has the unknown \['c'\]"),
        ({"a": [1.0, 2.0], "c": 1}, r"the update lacks \['b'\] and has the unknown \['c'\]"),
        ({"b": 1, "a": [1.0, 2.0]}, "the update has its tensors in another order"),
        ({"a": [1.0], "b": 1}, r"the update has the shape \(1,\) for 'a', but the model has \(2,\)"),
    ],
)
def test_says_how_a_structure_differs(actual: dict[str, object], said: str):
    with pytest.raises(ArraysMismatchError, match=said):
        check_same_structure(Arrays({"a": [0.0, 0.0], "b": 0}), Arrays(actual), "the update")


@pytest.mark.parametrize(
    ("dtype", "change"),
    [(name, "F64" if name == "F64" else "F32" if "F" in name else "I64") for name in DTYPES],
)
def test_the_dtype_of_a_change_follows_the_table(dtype: str, change: str):
    model = Arrays({"t": np.ones(2, DTYPES[dtype])})
    assert delta_dtype(DTYPES[dtype]) == DTYPES[change]
    assert subtract(model, model)["t"].dtype == DTYPES[change]
    assert is_floating(model["t"]) == ("F" in dtype)


@many
@given(st.data())
def test_applying_the_change_between_two_models_gives_the_second(data: st.DataObject):
    # For integers and bools always; for floats where the change is exact, here of small integers.
    old = data.draw(models([name for name in DTYPES if "64" not in name]))
    new = Arrays(
        {name: np.rint(array[::-1] if array.ndim else array).astype(array.dtype) for name, array in old.items()}
    )
    old = Arrays(
        {name: np.rint(array).astype(array.dtype) if is_floating(array) else array for name, array in old.items()}
    )
    moved = apply(old, subtract(new, old))
    assert {name: array.tolist() for name, array in moved.items()} == {
        name: array.tolist() for name, array in new.items()
    }
    assert {name: array.dtype for name, array in moved.items()} == {name: array.dtype for name, array in old.items()}


@pytest.mark.parametrize("dtype", INTEGERS)
@many
@given(data=st.data())
def test_integers_change_exactly_or_stop_at_the_limit(dtype: str, data: st.DataObject):
    kind = DTYPES[dtype]
    limits, wide = np.iinfo(kind), np.iinfo(np.int64)
    value = st.integers(limits.min, limits.max) | st.sampled_from([limits.min, limits.max])
    old, new = data.draw(value), data.draw(value)
    change = subtract(Arrays({"t": np.array([new], kind)}), Arrays({"t": np.array([old], kind)}))["t"][0]
    assert int(change) == min(max(new - old, wide.min), wide.max)
    step = data.draw(st.integers(wide.min, wide.max) | st.integers(-300, 300))
    for shape in ((), (1,)):
        moved = apply(Arrays({"t": np.full(shape, old, kind)}), Arrays({"t": np.full(shape, step)}))["t"]
        assert moved.dtype == kind
        assert int(moved.reshape(-1)[0]) == min(max(old + step, limits.min), limits.max)


@pytest.mark.parametrize(
    ("old", "change", "new"), [(0, 1, 1), (0, 0, 0), (0, -1, 0), (1, 0, 1), (1, -1, 0), (1, -5, 0), (1, 1, 1)]
)
def test_a_bool_is_true_when_above_zero(old: int, change: int, new: int):
    moved = apply(Arrays({"t": np.array([old], bool)}), Arrays({"t": np.array([change])}))["t"]
    assert moved.dtype == bool
    assert moved.tolist() == [bool(new)]


@many
@given(st.sampled_from(["F16", "F32"]), st.floats(-1000, 1000, width=16), st.floats(-1000, 1000, width=32))
def test_a_floating_tensor_is_rounded_once(dtype: str, old: float, change: float):
    # The nearest number of the dtype to the exact sum: none is nearer.
    moved = apply(Arrays({"t": np.array([old], DTYPES[dtype])}), Arrays({"t": np.array([change], np.float32)}))["t"]
    exact = Fraction(old) + Fraction(change)
    error = abs(Fraction(float(moved[0])) - exact)
    for side in (-np.inf, np.inf):
        neighbour = np.nextafter(moved[0], DTYPES[dtype].type(side))
        assert error <= abs(Fraction(float(neighbour)) - exact)


@many
@given(st.floats(-1000, 1000, width=16), st.floats(-1000, 1000, width=32))
def test_bfloat16_is_added_in_float32_and_then_rounded(old: float, change: float):
    model = np.array([old]).astype(DTYPES["BF16"])
    moved = apply(Arrays({"t": model}), Arrays({"t": np.array([change], np.float32)}))["t"]
    expected = (model.astype(np.float32) + np.float32(change)).astype(DTYPES["BF16"])
    assert moved.tobytes() == expected.tobytes()


def test_a_change_beyond_float32_is_infinite_and_says_nothing_of_it():
    change = subtract(Arrays({"t": np.array([1e300, np.inf])}), Arrays({"t": np.array([1.0, np.inf], np.float32)}))["t"]
    assert change[0] == np.inf
    assert np.isnan(change[1])


def test_a_model_beyond_float16_is_infinite():
    moved = apply(Arrays({"t": np.array([6e4], np.float16)}), Arrays({"t": np.array([6e4], np.float32)}))["t"]
    assert moved.tolist() == [np.inf]


def test_training_in_float64_changes_a_float32_model():
    change = subtract(Arrays({"t": np.array([1.25])}), Arrays({"t": np.array([1.0], np.float32)}))["t"]
    assert change.dtype == np.float32
    assert change.tolist() == [0.25]


@pytest.mark.parametrize("dtype", ["BOOL", *INTEGERS])
def test_an_integer_that_became_a_float_is_refused_by_name(dtype: str):
    with pytest.raises(ArraysMismatchError, match="the trained model has float64 for 'steps', but the model has"):
        subtract(Arrays({"steps": np.array([1.5])}), Arrays({"steps": np.ones(1, DTYPES[dtype])}))


def test_arithmetic_refuses_another_structure():
    one, two = Arrays({"a": [1.0]}), Arrays({"b": [1.0]})
    for function in (subtract, apply, add):
        with pytest.raises(ArraysMismatchError, match="lacks"):
            function(one, two)


def test_add_scale_and_zeros_keep_dtypes():
    arrays = Arrays(
        {"w": np.array([1.5, -2.0], np.float32), "b": np.array([3], ml_dtypes.bfloat16), "n": np.array([5])}
    )
    assert add(arrays, arrays) == Arrays(
        {"w": np.array([3.0, -4.0], np.float32), "b": np.array([6], ml_dtypes.bfloat16), "n": np.array([10])}
    )
    assert scale(arrays, 0.5) == Arrays(
        {"w": np.array([0.75, -1.0], np.float32), "b": np.array([1.5], ml_dtypes.bfloat16), "n": np.array([5])}
    )
    assert zeros_like(arrays) == Arrays(
        {"w": np.zeros(2, np.float32), "b": np.zeros(1, ml_dtypes.bfloat16), "n": np.zeros(1, np.int64)}
    )


def test_map_floating_leaves_other_tensors_alone():
    left, right = Arrays({"w": [1.0], "n": [5]}), Arrays({"w": [10.0], "n": [7]})
    assert map_floating(lambda a, b: a + b, left, right) == Arrays({"w": [11.0], "n": [5]})


def test_a_constant_change_is_of_floating_tensors_in_the_dtype_of_their_change():
    model = Arrays({"h": np.zeros((2, 1), np.float16), "n": np.zeros(3, np.int8), "d": np.zeros(())})
    assert constant_change(model, 0.25) == Arrays({"h": np.full((2, 1), 0.25, np.float32), "d": np.array(0.25)})


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_the_length_that_people_read_is_the_norm_to_six_digits(dtype: type[np.generic]) -> None:
    rng = np.random.default_rng(0)
    arrays = Arrays({"w": rng.normal(size=(300, 700)).astype(dtype), "b": rng.normal(size=3).astype(dtype)})
    assert length(Arrays({**arrays, "steps": np.array(10**6)})) == pytest.approx(norm(arrays), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e30, 1e-30, np.inf, np.nan])
def test_what_float32_cannot_square_has_a_length_too(value: float) -> None:
    arrays = Arrays({"w": np.full(4, value, np.float32)})
    assert length(arrays) == pytest.approx(norm(arrays), nan_ok=True)
    assert length(arrays) == pytest.approx(2 * value, nan_ok=True)


def test_the_lengths_of_a_stack_are_those_of_each():
    rng = np.random.default_rng(0)
    each = [
        Arrays(
            {"short": rng.normal(size=(3, 4)).astype(np.float32), "long": rng.normal(size=9000), "steps": np.array(7)}
        )
        for _ in range(3)
    ]
    each += [
        Arrays({"short": np.full((3, 4), value, np.float32), "long": np.zeros(9000), "steps": np.array(7)})
        for value in (0.0, 1e-30, 1e30, np.nan)
    ]
    stacks = {name: np.stack([one[name] for one in each]) for name in each[0]}
    assert lengths(stacks) == pytest.approx([length(one) for one in each], rel=1e-6, nan_ok=True)
