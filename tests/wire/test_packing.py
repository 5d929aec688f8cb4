"""Packed updates: what is read is what was written, and nothing hostile is expanded."""

from collections.abc import Mapping

import numpy as np
import pytest

from hansa.arrays import Arrays
from hansa.errors import AppError, Reason, UpdateRejectedError
from hansa.messages import Packing, Update
from hansa.wire import codec, packing

TEMPLATE = Arrays({"w": np.zeros((30, 40), np.float32), "n": np.zeros(2, np.int64)})
OUTLINE = packing.outline(TEMPLATE)
N = np.array([1, 2])
SEED = np.arange(32, dtype=np.uint8)
ONE = np.ones(1, np.float32)


def file_of(parts: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """A packed file with these parts of `w`."""
    tensors = {f"w:{part}": array for part, array in parts.items()} | {"n:values": N}
    return b"".join(codec.encode(Arrays(tensors), metadata or {"hansa": "packed 1"}))


def test_bytes_are_fewer_by_what_was_left_out():
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_000).astype(np.float32)
    few = np.where(rng.random(values.size) < 0.01, values, np.float32(0))
    assert packing.packed_size(Update({"w": values}, 1)) >= 400_000
    assert packing.packed_size(Update({"w": few}, 1, packing={"w": Packing(sparse=True)})) < 9_000


def test_a_tensor_that_would_not_be_smaller_travels_as_it_is():
    update = Update({"w": np.ones(500, np.float32)}, 1, packing={"w": Packing(sparse=True)})
    assert packing.pack(update) == codec.encode(update.arrays)


def test_negative_zero_travels_too():
    values = np.zeros(2000, np.float32)
    values[7] = -0.0
    data = b"".join(packing.pack(Update({"w": values}, 1, packing={"w": Packing(sparse=True)})))
    assert len(data) < 1000
    assert packing.unpack(data, packing.outline(Arrays({"w": values})))["w"].tobytes() == values.tobytes()


def test_a_packing_that_would_change_values_is_the_transforms_fault():
    update = Update({"w": np.full(2000, 0.3, np.float32)}, 1, packing={"w": Packing(bits=8, steps=ONE)})
    with pytest.raises(AppError, match="'w' can travel in fewer bytes, but that would change its values"):
        packing.pack(update)


def test_a_plain_file_is_read_as_before_and_so_is_one_with_another_writers_metadata():
    for metadata in (None, {"format": "pt"}, {"hansa": "packed 2"}):
        data = b"".join(codec.encode(TEMPLATE, metadata))
        assert packing.unpack(data, OUTLINE) == TEMPLATE


def levels(count: int, dtype: str = "i1") -> np.ndarray:
    return np.ones(count, dtype)


INDEX = np.arange(3, dtype=np.uint32)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({}, r"missing \['w'\]"),
        ({"values": np.zeros(1200, np.float32)}, r"has values as float32\[1200\], not as float32\[30, 40\]"),
        ({"values": np.zeros((30, 40))}, r"has values as float64\[30, 40\], not as float32"),
        ({"index": INDEX}, r"has the parts \['index'\], which do not belong together"),
        ({"index": INDEX, "values": np.zeros(4, np.float32)}, r"has values as float32\[4\], not as float32\[3\]"),
        ({"index": INDEX[::-1], "values": np.zeros(3, np.float32)}, "an index that is not ascending within its 1200"),
        ({"index": INDEX * 0, "values": np.zeros(3, np.float32)}, "an index that is not ascending"),
        ({"index": INDEX + 1198, "values": np.zeros(3, np.float32)}, "an index that is not ascending within"),
        ({"index": INDEX.astype("i8"), "values": np.zeros(3, np.float32)}, r"has index as int64\[3\]"),
        ({"index": np.arange(1201, dtype=np.uint32), "values": np.zeros(1201, np.float32)}, r"the shape \[1201\]"),
        ({"seed": SEED[:8], "share": np.ones(1, "u8"), "values": ONE}, r"has seed as uint8\[8\]"),
        ({"seed": SEED, "share": np.zeros(1, "u8"), "values": ONE}, "a share that is not between 1 and"),
        ({"seed": SEED, "share": np.array([2**32], "u8"), "values": ONE}, "a share that is not between 1 and"),
        ({"seed": SEED, "share": np.array([2**31], "u8"), "values": ONE}, "has 1 values for 593 positions"),
        (
            {"seed": SEED, "share": np.array([2**31], "u8"), "levels4": levels(5, "u1"), "steps": ONE},
            "has 10 levels for",
        ),
        ({"levels8": levels(1199), "steps": ONE}, r"has levels8 as int8\[1199\], not as int8\[1200\]"),
        ({"levels8": levels(1200) * np.int8(-128), "steps": ONE}, "or one of −128"),
        ({"levels8": levels(1200), "steps": np.ones(2, np.float32)}, r"has steps as float32\[2\], not as float32\[3\]"),
        ({"levels8": levels(1200), "steps": ONE * np.float32(np.nan)}, "a step that is not a finite number"),
        ({"levels8": levels(1200), "steps": -ONE}, "a step that is not a finite number of at least 0"),
        ({"levels4": levels(600, "u1") * np.uint8(0x80), "steps": ONE}, "or one of −8"),
        ({"levels4": levels(599, "u1"), "steps": ONE}, r"has levels4 as uint8\[599\], not as uint8\[600\]"),
        ({"levels8": levels(1200), "levels4": levels(600, "u1"), "steps": ONE}, "which do not belong together"),
        ({"values": np.zeros((30, 40), np.float32), "extra": ONE}, "which do not belong together"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_with_a_reason(parts: dict[str, np.ndarray], said: str):
    with pytest.raises(UpdateRejectedError, match=said) as refused:
        packing.unpack(file_of(parts), OUTLINE)
    assert refused.value.reason is Reason.STRUCTURE


def test_whole_numbers_and_unknown_tensors_are_refused():
    whole = {"w:values": TEMPLATE["w"], "n:levels8": levels(2), "n:steps": ONE}
    with pytest.raises(UpdateRejectedError, match="the packed tensor 'n' is int64 and cannot be packed"):
        packing.unpack(b"".join(codec.encode(Arrays(whole), {"hansa": "packed 1"})), OUTLINE)
    strange = {"w:values": TEMPLATE["w"], "n:values": N, "x:values": N, "bare": N}
    with pytest.raises(UpdateRejectedError, match=r"unknown \['', 'x'\], missing \[\]"):
        packing.unpack(b"".join(codec.encode(Arrays(strange), {"hansa": "packed 1"})), OUTLINE)


def test_bytes_that_are_no_safetensors_are_malformed():
    with pytest.raises(UpdateRejectedError) as refused:
        packing.unpack(b"nonsense", OUTLINE)
    assert refused.value.reason is Reason.MALFORMED


def test_nothing_of_the_size_of_a_tensor_is_made_before_all_are_checked(monkeypatch: pytest.MonkeyPatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("expanded")

    monkeypatch.setattr(packing._Checked, "expanded", never)
    tensors = {"w:index": INDEX, "w:values": np.zeros(3, np.float32), "n:index": INDEX}
    with pytest.raises(UpdateRejectedError, match="the packed tensor 'n' has the parts"):
        packing.unpack(b"".join(codec.encode(Arrays(tensors), {"hansa": "packed 1"})), OUTLINE)
