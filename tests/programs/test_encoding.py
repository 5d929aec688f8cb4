"""Messages as bytes: every value comes back, and nothing else is taken for one."""

import math
import pickle  # noqa: TID251 - to show that it is refused
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from hansa.arrays import DTYPES, Arrays
from hansa.errors import InputError, WireError
from hansa.programs.encoding import decode, encode
from hansa.protocols.message import message
from hansa.wire import codec


@message("test.everything")
@dataclass(frozen=True)
class Everything:
    flag: bool
    count: int
    rate: float
    text: str
    matrix: np.ndarray
    model: Arrays


@message("test.nothing")
@dataclass(frozen=True)
class Nothing:
    pass


@message("test.number")
@dataclass(frozen=True)
class Number:
    count: int


def everything(**changes: Any) -> Everything:
    fields: dict[str, Any] = {
        "flag": True, "count": -(2**63), "rate": math.pi, "text": "Lübeck", "matrix": np.eye(2),
        "model": Arrays({"a/b": np.float32([1, 2]), "c": np.zeros((0, 3))}),
    }  # fmt: skip
    return Everything(**(fields | changes))


def test_every_field_comes_back_with_its_type_and_its_bits() -> None:
    sent = everything()
    got = decode(encode(sent))
    assert (got.flag, got.count, got.rate, got.text, got.model) == (True, -(2**63), math.pi, "Lübeck", sent.model)
    assert [type(value) for value in (got.flag, got.count, got.rate, got.text)] == [bool, int, float, str]
    assert np.array_equal(got.matrix, np.eye(2))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
def test_ndarrays_of_every_dtype_come_back(dtype: np.dtype[Any]) -> None:
    matrix = np.array([[0, 1], [1, 0]]).astype(dtype)
    got = decode(encode(everything(matrix=matrix))).matrix
    assert got.dtype == dtype
    assert got.tobytes() == matrix.tobytes()


def test_nan_infinity_empty_text_no_tensors_and_no_fields_come_back() -> None:
    assert math.isnan(decode(encode(everything(rate=math.nan))).rate)
    got = decode(encode(everything(rate=-math.inf, text="", model=Arrays())))
    assert (got.rate, got.text, got.model) == (-math.inf, "", Arrays())
    assert decode(encode(Nothing())) == Nothing()


def test_what_was_sent_does_not_change_with_what_its_sender_does_next() -> None:
    matrix = np.zeros(2)
    frame = encode(everything(matrix=matrix))
    matrix[:] = 1
    assert decode(frame).matrix.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("flag", 1, "Everything.flag is 1, a int, not a bool"),
        ("count", True, "Everything.count is True, a bool, not a int"),
        ("count", 1.0, "Everything.count is 1.0, a float, not a int"),
        ("count", 2**63, "only numbers of 64 bits"),
        ("rate", "1", "Everything.rate is '1'"),
        ("text", b"raw", "Everything.text is a bytes, not a str"),
        ("text", "\ud800", "cannot be sent as UTF-8"),
        ("matrix", [1.0], "Everything.matrix is a list, not an ndarray"),
        ("model", {"a": np.zeros(1)}, "Everything.model is a dict, not Arrays"),
    ],
)
def test_a_value_that_is_not_of_its_fields_type_is_refused_by_name(field: str, value: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        encode(everything(**{field: value}))


def test_an_object_array_and_a_class_that_is_not_registered_do_not_travel() -> None:
    with pytest.raises(InputError, match="object"):
        encode(everything(matrix=np.array([object()])))
    with pytest.raises(InputError, match="object is no message"):
        encode(object())


FIELDS = {
    "flag": np.bool_(True), "count": np.int64(1), "rate": np.float64(1), "text": np.uint8([65]), "matrix": np.eye(2)
}  # fmt: skip


def framed(name: str, tensors: dict[str, Any]) -> bytes:
    head = bytes([len(name)]) + name.encode()
    return head + b"\0" * (-len(head) % 8) + b"".join(codec.encode(Arrays(tensors)))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"", "no class is registered"),
        (pickle.dumps(Number(1)), "no class is registered|safetensors"),
        (framed("test.unknown", {}), "a message 'test.unknown' has arrived"),
        (framed("test.number", {}), "without its field 'count'"),
        (framed("test.number", {"count": np.float64(1)}), "is float64\\[\\], not int"),
        (framed("test.number", {"count": np.zeros(1, np.int64)}), "is int64\\[1\\], not int"),
        (framed("test.number", {"count": np.int64(1), "more": np.int64(1)}), "unknown field 'more'"),
        (framed("test.number", {"count": np.int64(1)})[:-1], "cut short"),
        (framed("test.everything", FIELDS | {"model/": np.zeros(1)}), "has a tensor without a name"),
        (framed("test.everything", FIELDS | {"text": np.uint8([0xFF])}), "is not UTF-8"),
    ],
)
def test_bytes_that_are_no_message_of_the_schema_are_refused(frame: bytes, said: str) -> None:
    with pytest.raises(WireError, match=said):
        decode(frame)


def test_no_cut_and_no_changed_byte_of_a_header_makes_anything_but_a_message_or_an_error() -> None:
    frame = encode(everything())
    for end in range(len(frame)):
        with pytest.raises(WireError):
            decode(frame[:end])
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(frame)
        changed[int(rng.integers(len(frame)))] ^= 1 << int(rng.integers(8))
        try:
            assert isinstance(decode(bytes(changed)), Everything)
        except WireError:
            continue
