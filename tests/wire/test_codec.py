"""Weights as bytes: exact, canonical, readable by others, and nothing believed that is not checked."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import blake3
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.algorithm import Partial
from hansa.arrays import DTYPES, Arrays
from hansa.errors import InputError, Reason, UpdateRejectedError, WireError
from hansa.messages import Contribution
from hansa.wire import codec


def joined(arrays: Arrays) -> bytes:
    return b"".join(codec.encode(arrays))


def assemble(header: object, data: bytes = b"") -> bytes:
    """A file of a header that may be anything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


MIXED = Arrays(
    {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "flags": np.array([True, False, True]),
        "bfloat": np.array([1.5, -2.0], ml_dtypes.bfloat16),
        "scalar": np.float64(3.25),
        "empty": np.zeros((0, 3), np.float32),
        "wide": np.array([2**63, 1], np.uint64),
        "naïve/名": np.array([[-1]], np.int8),
        "half": np.array([np.nan, np.inf, -0.0], np.float16),
    }
)


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_dtype_and_shape_comes_back_bit_for_bit():
    assert codec.decode(joined(MIXED)) == MIXED


def test_the_bytes_of_a_small_model_are_these():
    model = Arrays({"w": np.array([1.0, 2.0], np.float32), "b": np.array(7, np.int64)})
    header = (
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"I64","shape":[],"data_offsets":[8,16]}}'
    )
    padded = header + b" " * 5  # 8 + 107 + 5 = 120, a multiple of 8
    assert joined(model) == (112).to_bytes(8, "little") + padded + b"\0\0\x80\x3f\0\0\0\x40" + b"\7\0\0\0\0\0\0\0"


def test_size_and_digest_are_those_of_the_bytes():
    data = joined(MIXED)
    assert codec.size(MIXED) == len(data)
    assert codec.digest(MIXED) == blake3.blake3(data).hexdigest()


def test_the_order_of_the_tensors_is_part_of_the_content():
    forth = Arrays({"a": np.zeros(1), "b": np.zeros(1)})
    back = Arrays({"b": np.zeros(1), "a": np.zeros(1)})
    assert codec.digest(forth) != codec.digest(back)
    assert list(codec.decode(joined(back))) == ["b", "a"]


def test_encoding_copies_no_tensor():
    weights = np.ones(1000, np.float32)
    _, part = codec.encode(Arrays({"w": weights}))
    assert np.shares_memory(np.frombuffer(part, np.uint8), weights)


def test_decoding_copies_no_aligned_tensor():
    data = bytearray(joined(Arrays({"w": np.ones(1000, np.float32)})))
    assert np.shares_memory(codec.decode(data)["w"], np.frombuffer(data, np.uint8))


def test_a_tensor_that_is_not_aligned_is_copied_and_right():
    odd = Arrays({"flag": np.array([True]), "w": np.arange(5.0)})
    decoded = codec.decode(joined(odd))
    assert decoded == odd
    assert decoded["w"].flags.aligned


def test_what_is_decoded_cannot_be_written_to():
    decoded = codec.decode(bytearray(joined(MIXED)))
    with pytest.raises(ValueError, match="read-only"):
        decoded["weight"][0, 0] = 1


def test_no_tensors_at_all_is_a_file_too():
    assert joined(Arrays()) == (8).to_bytes(8, "little") + b"{}      "
    assert codec.decode(joined(Arrays())) == Arrays()


def test_ten_thousand_tensors_are_no_burden():
    many = Arrays({f"model.layers.{n}.attention.weight": np.full(4, n, np.float32) for n in range(10_000)})
    assert codec.decode(joined(many)) == many


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"__metadata__": np.zeros(1)}, "may not be called '__metadata__'"),
        ({"x" * 1025: np.zeros(1)}, "at most 1024 bytes"),
        ({"ä" * 513: np.zeros(1)}, "at most 1024 bytes"),
        ({"\ud800": np.zeros(1)}, "not UTF-8"),
        ({"w": np.zeros([1] * 33)}, "33 dimensions"),
        ({str(n): np.zeros(0) for n in range(codec.MAX_TENSORS + 1)}, "65537 tensors"),
    ],
    ids=["metadata", "long", "long in bytes", "surrogate", "dimensions", "many"],
)
def test_what_could_not_be_read_is_not_written(arrays: dict[str, Any], says: str):
    with pytest.raises(InputError, match=says):
        codec.encode(Arrays(arrays))


# ── other readers and writers ────────────────────────────────────────────────────────────────────────────────────────

FOREIGN = Arrays({name: array for name, array in MIXED.items() if name != "bfloat"})


def test_the_safetensors_package_reads_what_we_write():
    read = safetensors.numpy.load(joined(FOREIGN))
    assert {name: (array.dtype, array.shape, array.tobytes()) for name, array in read.items()} == {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in FOREIGN.items()
    }


def test_the_safetensors_package_reads_our_bfloat16(tmp_path: Path):
    codec.save(MIXED, tmp_path / "model.safetensors")
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.get_slice("bfloat").get_dtype() == "BF16"
        assert set(file.keys()) == set(MIXED)


def test_we_read_what_the_safetensors_package_writes_with_its_metadata():
    data = safetensors.numpy.save(dict(FOREIGN), {"format": "np"})
    header = codec.read_header(data)
    assert dict(header.metadata) == {"format": "np"}
    decoded = codec.decode(data)
    assert {name: decoded[name].tobytes() for name in FOREIGN} == {name: a.tobytes() for name, a in FOREIGN.items()}


def test_a_header_in_another_order_than_its_bytes_is_read_in_the_order_of_the_bytes():
    header = {"b": entry(data_offsets=[8, 16]), "none": entry(shape=[0], data_offsets=[8, 8]), "a": entry()}
    decoded = codec.decode(assemble(header, bytes(16)))
    assert list(decoded) == ["a", "none", "b"]


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_comes_back(tmp_path: Path):
    codec.save(MIXED, tmp_path / "model.safetensors")
    assert codec.load(tmp_path / "model.safetensors") == MIXED
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "model.safetensors"
    codec.save(MIXED, target)

    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        codec.save(Arrays({"w": np.zeros(3)}), target)
    assert codec.load(target) == MIXED
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_file_may_be_replaced_while_it_is_mapped(tmp_path: Path):
    target = tmp_path / "model.safetensors"
    codec.save(MIXED, target)
    mapped = codec.load(target)
    codec.save(Arrays({"w": np.zeros(3)}), target)
    assert mapped == MIXED


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip file", b"\x80\x04\x95 a pickle"])
def test_another_file_is_refused_by_name(tmp_path: Path, data: bytes):
    (tmp_path / "model.pt").write_bytes(data)
    with pytest.raises(WireError, match=r"model\.pt is not a safetensors file"):
        codec.load(tmp_path / "model.pt")


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read: No such file"):
        codec.load(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        codec.load(tmp_path)


# ── hostile files ────────────────────────────────────────────────────────────────────────────────────────────────────

BIG = 2**63 - 1
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "0 bytes are too few"),
    "no header": (b"\x08\0\0\0\0\0\0", "7 bytes are too few"),
    "length 2^64-1": (b"\xff" * 8 + b"{}", "header claims 18446744073709551615 bytes"),
    "length past the end": ((100).to_bytes(8, "little") + b"{}", "header claims 100 bytes"),
    "length over the limit": (
        (codec.MAX_HEADER + 1).to_bytes(8, "little") + bytes(codec.MAX_HEADER + 1),
        "header claims 8388609 bytes",
    ),
    "leading space": (assemble(b" {}"), "must begin with"),
    "a list": (assemble(b"[]"), "must begin with"),
    "no JSON": (assemble(b"{"), "not JSON"),
    "two objects": (assemble(b"{}{}"), "not JSON"),
    "not UTF-8": (assemble(b'{"\xff":1}'), "not JSON"),
    "deep": (assemble(b'{"a":' + b"[" * 200_000), "not JSON"),
    "deep objects": (assemble(b'{"a":' * 100_000), "not JSON"),
    "many values": (assemble(b'{"a":[' + b"0," * 2_000_000), "values is not read"),
    "huge number": (assemble(b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}'), "not JSON"),
    "duplicate": (assemble(b'{"w":{},"w":{}}'), "name 'w' twice"),
    "duplicate key": (
        assemble(b'{"w":{"dtype":"F32","shape":[2],"shape":[3],"data_offsets":[0,8]}}', bytes(8)),
        "name 'shape' twice",
    ),
    "escaped duplicate": (assemble(b'{"w":{},"\\u0077":{}}'), "name 'w' twice"),
    "surrogate": (assemble(b'{"\\ud800":{}}'), "not UTF-8"),
    "empty name": (assemble({"": entry()}, bytes(8)), "not UTF-8 text of 1 to"),
    "long name": (assemble({"x" * 1025: entry()}, bytes(8)), "1 to 1024 bytes"),
    "too many tensors": (
        assemble({str(n): entry(shape=[0], data_offsets=[0, 0]) for n in range(codec.MAX_TENSORS + 1)}),
        "65537 tensors",
    ),
    "entry is a list": (assemble({"w": []}), "must have dtype, shape and data_offsets"),
    "entry lacks shape": (assemble({"w": {"dtype": "F32", "data_offsets": [0, 8]}}), "must have dtype"),
    "entry has more": (assemble({"w": entry(code="import os")}), "and nothing else"),
    "unknown dtype": (assemble({"w": entry(dtype="F8_E4M3")}, bytes(8)), "dtype 'F8_E4M3'; known are BOOL"),
    "dtype is a list": (assemble({"w": entry(dtype=["F32"])}, bytes(8)), "has the dtype"),
    "shape is text": (assemble({"w": entry(shape="22")}, bytes(8)), "no usable shape"),
    "shape is negative": (assemble({"w": entry(shape=[-2])}, bytes(8)), "no usable shape"),
    "two negatives": (assemble({"w": entry(shape=[-1, -2])}, bytes(8)), "no usable shape"),
    "shape is a float": (assemble({"w": entry(shape=[2.0])}, bytes(8)), "no usable shape"),
    "shape is true": (assemble({"w": entry(shape=[True, 2])}, bytes(8)), "no usable shape"),
    "shape is NaN": (assemble(b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', bytes(8)), "usable shape"),
    "33 dimensions": (assemble({"w": entry(shape=[1] * 32 + [2])}, bytes(8)), "no usable shape"),
    "shape overflows": (assemble({"w": entry(shape=[2**32, 2**32])}, bytes(8)), r"beyond 2\^63"),
    "shape wraps to 8 bytes": (assemble({"w": entry(shape=[2**62 + 2])}, bytes(8)), r"beyond 2\^63"),
    "empty but vast": (assemble({"w": entry(shape=[0, BIG, BIG], data_offsets=[0, 0])}), r"beyond 2\^63"),
    "bytes do not fit shape": (assemble({"w": entry(shape=[3])}, bytes(8)), r"has 8 bytes, but F32\[3\] needs"),
    "one offset": (assemble({"w": entry(data_offsets=[0])}, bytes(8)), "no usable data_offsets"),
    "offsets are text": (assemble({"w": entry(data_offsets=["0", "8"])}, bytes(8)), "no usable data_offsets"),
    "offsets backwards": (assemble({"w": entry(data_offsets=[8, 0])}, bytes(8)), "has -8 bytes"),
    "negative offset": (assemble({"w": entry(data_offsets=[-8, 0])}, bytes(8)), "no usable data_offsets"),
    "hole at the start": (assemble({"w": entry(data_offsets=[8, 16])}, bytes(16)), "leaves a hole"),
    "hole": (assemble({"a": entry(), "b": entry(data_offsets=[12, 20])}, bytes(20)), "'b' begins at 12, not 8"),
    "overlap": (assemble({"a": entry(), "b": entry(data_offsets=[4, 12])}, bytes(12)), "overlaps the tensor before"),
    "the same bytes twice": (assemble({"a": entry(), "b": entry()}, bytes(8)), "overlaps"),
    "cut short": (assemble({"w": entry()}, bytes(7)), "is cut short: its tensors have 8 bytes, 7 are there"),
    "trailing bytes": (assemble({"w": entry()}, bytes(9)), "has bytes after its last tensor"),
    "metadata is a list": (assemble({"__metadata__": []}), "is not a mapping of text"),
    "metadata holds a number": (assemble({"__metadata__": {"a": 1}}), "is not a mapping of text"),
    "a byte that is no bool": (
        assemble({"w": entry(dtype="BOOL", data_offsets=[0, 2])}, b"\x01\x02"),
        "holds a byte other than 0 and 1",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_flaw(name: str):
    data, says = HOSTILE[name]
    with pytest.raises(WireError, match=says):
        codec.decode(data)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_update_is_a_rejected_update(name: str):
    template = Arrays({"w": np.zeros(2, np.float32), "x": np.zeros(10_000_000, np.float32)})
    with pytest.raises(UpdateRejectedError) as caught:
        codec.decode(HOSTILE[name][0], template)
    assert caught.value.reason in {Reason.MALFORMED, Reason.STRUCTURE}


@pytest.mark.parametrize("name", ["deep", "many values", "too many tensors", "huge number", "length over the limit"])
def test_refusing_takes_bounded_memory(name: str):
    data, _ = HOSTILE[name]
    tracemalloc.start()
    with pytest.raises(WireError):
        codec.decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 128 * 2**20


@st.composite
def models(draw: st.DrawFn) -> Arrays:
    arrays = {}
    names = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), max_size=4))
    for name in names:
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        count = math.prod(shape) * DTYPES[dtype].itemsize
        raw = draw(st.binary(min_size=count, max_size=count))
        bits = bytes(byte & 1 for byte in raw) if dtype == "BOOL" else raw
        arrays[name] = np.frombuffer(bits, DTYPES[dtype]).reshape(shape) if count else np.zeros(shape, DTYPES[dtype])
    return Arrays(arrays)


@settings(max_examples=100, deadline=None)
@given(models())
def test_any_arrays_come_back_and_have_one_digest(arrays: Arrays):
    data = joined(arrays)
    assert codec.decode(data) == arrays
    assert len(data) == codec.size(arrays)
    assert blake3.blake3(data).hexdigest() == codec.digest(arrays) == codec.digest(codec.decode(data))
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0


@settings(max_examples=100, deadline=None)
@given(models(), st.data())
def test_a_file_cut_anywhere_is_refused(arrays: Arrays, data: st.DataObject):
    whole = joined(arrays)
    with pytest.raises(WireError):
        codec.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@settings(max_examples=300, deadline=None)
@given(models(), st.data())
def test_flipped_bits_give_arrays_or_a_wire_error(arrays: Arrays, data: st.DataObject):
    damaged = bytearray(joined(arrays))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = codec.decode(damaged)
    except WireError:
        return
    assert codec.decode(joined(decoded)) == decoded


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(sorted(DTYPES)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(sorted(DTYPES)) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | JSON,
    }
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), ENTRY | JSON, max_size=3), st.binary(max_size=64))
def test_any_header_gives_arrays_or_a_wire_error(header: dict[str, Any], data: bytes):
    try:
        decoded = codec.decode(assemble(header, data))
    except WireError:
        return
    assert decoded.nbytes == len(data)


# ── updates and partial sums ─────────────────────────────────────────────────────────────────────────────────────────

TEMPLATE = Arrays({"w": np.zeros((2, 2), np.float16), "steps": np.array(3, np.int32)})
DELTA = Arrays({"w": np.ones((2, 2), np.float32), "steps": np.array(-1, np.int64)})


def test_an_update_of_the_model_is_read():
    assert codec.decode(joined(DELTA), TEMPLATE) == DELTA


@pytest.mark.parametrize(
    ("update", "says"),
    [
        ({"w": DELTA["w"]}, r"missing \['steps'\]"),
        ({**DELTA, "evil": np.zeros(1)}, r"unknown \['evil'\]"),
        ({"steps": DELTA["steps"], "w": DELTA["w"]}, "in the model's order"),
        ({**DELTA, "w": np.ones(4, np.float32)}, r"'w' is float32\[4\], but .* float32\[2, 2\]"),
        ({**DELTA, "w": np.ones((2, 2), np.float16)}, r"'w' is float16\[2, 2\]"),
        ({**DELTA, "steps": np.array(-1, np.int32)}, r"'steps' is int32\[\], but .* int64\[\]"),
    ],
    ids=["missing", "unknown", "order", "shape", "dtype", "integers"],
)
def test_an_update_of_another_structure_is_rejected(update: dict[str, Any], says: str):
    with pytest.raises(UpdateRejectedError, match=says) as caught:
        codec.decode(joined(Arrays(update)), TEMPLATE)
    assert caught.value.reason is Reason.STRUCTURE


def test_an_update_with_more_bytes_than_the_model_accounts_for_is_rejected_unread():
    limit = codec.update_limit(TEMPLATE)
    with pytest.raises(UpdateRejectedError, match=f"{limit + 1} bytes are more than the {limit}") as caught:
        codec.decode(bytes(limit + 1), TEMPLATE)
    assert caught.value.reason is Reason.TOO_LARGE


def test_the_limit_leaves_room_for_the_sum_and_for_other_writers():
    assert codec.size(DELTA) <= codec.update_limit(TEMPLATE)
    assert codec.size(Arrays({name: np.zeros(a.shape, np.int64) for name, a in TEMPLATE.items()})) <= (
        codec.update_limit(TEMPLATE)
    )
    foreign = safetensors.numpy.save(dict(DELTA), {"format": "np", "producer": "another writer"})
    assert len(foreign) <= codec.update_limit(TEMPLATE)


ALICE = Contribution("alice", 3, {"loss": 0.5}, "ab" * 32)
BOB = Contribution("bob", 4)


def test_a_partial_sum_comes_back_and_may_be_added_to():
    sums = {"w": np.arange(4).reshape(2, 2), "b": np.array(-(2**62))}
    partial = Partial(sums, 7, {"alice": ALICE, "bob": BOB})
    data = b"".join(codec.encode_partial(partial))
    back = codec.decode_partial(data, (ALICE, BOB), 7)
    assert (back.weight, back.contributions) == (7, {"alice": ALICE, "bob": BOB})
    assert Arrays(back.sums) == Arrays(sums)
    back.sums["w"] += 1
    assert Arrays(codec.decode_partial(data, (ALICE, BOB), 7).sums) == Arrays(sums)


def test_a_partial_sum_owns_a_writable_buffer_without_copying_it():
    data = bytearray(b"".join(codec.encode_partial(Partial({"w": np.arange(100)}, 3, {"alice": ALICE}))))
    back = codec.decode_partial(data, (ALICE,), 3)
    assert np.shares_memory(back.sums["w"], np.frombuffer(data, np.uint8))


def test_a_hostile_partial_sum_is_rejected():
    good = b"".join(codec.encode_partial(Partial({"w": np.arange(4)}, 3, {"alice": ALICE})))
    for data, contributions, reason in [
        (good[:-1], (ALICE,), Reason.MALFORMED),
        (joined(Arrays({"w": np.zeros(4)})), (ALICE,), Reason.STRUCTURE),
        (good, (ALICE, BOB, ALICE), Reason.DUPLICATE),
    ]:
        with pytest.raises(UpdateRejectedError) as caught:
            codec.decode_partial(data, contributions, 3)
        assert caught.value.reason is reason
