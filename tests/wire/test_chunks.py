"""Chunks: the same bytes as protobuf's own, and a whole that is never put together wrongly."""

import itertools
import os

import blake3
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hansa.errors import WireError
from hansa.wire import chunks
from hansa.wire._generated import calls_pb2

DATA = bytes(range(256)) * 4
DIGEST = blake3.blake3(DATA).hexdigest()
OFFSETS = st.integers(0, 2**64 - 1) | st.sampled_from([0, 127, 128, 2**32, 2**63 - 1, 2**63])


@given(OFFSETS, st.binary(max_size=300))
def test_a_frame_is_what_protobuf_writes(offset: int, data: bytes):
    message = chunks.frame(offset, data)
    assert message == calls_pb2.Chunk(offset=offset, data=data).SerializeToString()
    read_offset, view = chunks.unframe(message)
    assert (read_offset, bytes(view)) == (offset, data)


def test_reading_copies_nothing():
    message = chunks.frame(5, DATA)
    _, view = chunks.unframe(message)
    assert view.obj is message


FIELDS = st.lists(
    st.sampled_from(
        [
            b"\x08\x05",  # offset 5
            b"\x08\x85\x00",  # offset 5, longer than it need be
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # offset 2^64 - 1
            b"\x08",  # cut
            b"\x12\x03abc",
            b"\x12\x00",
            b"\x12\x83\x00xyz",
            b"\x12\xff\xff\xff\xff\x0f",  # a length past the end
            b"\x1a\x02hi",  # a field of a newer version
            b"\x20\x07",
            b"\x07",  # no wire type has this number
        ]
    ),
    max_size=4,
).map(b"".join)


@settings(max_examples=500)
@given(FIELDS | st.binary(max_size=40))
@example(b"")
@example(b"\x12")
@example(b"\x08\x80")
def test_any_bytes_read_as_protobuf_reads_them(message: bytes):
    try:
        expected = calls_pb2.Chunk.FromString(message)
    except DecodeError:
        with pytest.raises(WireError, match="should be a chunk"):
            chunks.unframe(message)
        return
    offset, view = chunks.unframe(message)
    assert (offset, bytes(view)) == (expected.offset, expected.data)


def test_a_chunk_beyond_the_limit_is_refused():
    assert len(chunks.unframe(chunks.frame(0, bytes(chunks.MAX_CHUNK)))[1]) == chunks.MAX_CHUNK
    with pytest.raises(WireError, match="4194305 bytes, more than the 4194304"):
        chunks.unframe(chunks.frame(0, bytes(chunks.MAX_CHUNK + 1)))


@pytest.mark.parametrize("offset", [-1, 2**64])
def test_an_offset_that_is_none_is_not_framed(offset: int):
    with pytest.raises(WireError, match="is not an offset"):
        chunks.frame(offset, b"x")


@given(st.lists(st.integers(0, 3 * chunks.CHUNK // 2), max_size=4), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_parts_are_cut_into_whole_chunks_wherever_they_begin(lengths: list[int], share: float):
    parts = [os.urandom(length) for length in lengths]
    whole = b"".join(parts)
    start = int(share * len(whole))
    pieces = [chunks.unframe(frame) for frame in chunks.split(parts, start)]
    assert b"".join(data for _, data in pieces) == whole[start:]
    assert [offset for offset, _ in pieces] == list(range(start, len(whole), chunks.CHUNK))
    assert all(len(data) == chunks.CHUNK for _, data in pieces[:-1])


def test_ten_thousand_small_parts_share_a_chunk():
    frames = list(chunks.split([b"ab"] * 10_000))
    assert len(frames) == 1
    assert bytes(chunks.unframe(frames[0])[1]) == b"ab" * 10_000


def test_an_offset_past_the_end_is_refused():
    assert list(chunks.split([b"abc"], 3)) == []
    with pytest.raises(WireError, match="end before the offset 4"):
        list(chunks.split([b"abc"], 4))


def test_chunks_in_order_make_the_whole():
    assembly = chunks.Assembly(len(DATA), DIGEST)
    for offset in range(0, len(DATA), 100):
        assert assembly.received == offset
        assert not assembly.complete
        assembly.write(offset, memoryview(DATA)[offset : offset + 100])
    assert assembly.complete
    assert assembly.intact
    whole = assembly.take()
    assert whole == DATA
    whole[0] = 1  # the taker owns it


def test_a_chunk_that_is_here_may_come_again_and_changes_nothing():
    assembly = chunks.Assembly(len(DATA), DIGEST)
    assembly.write(0, DATA[:200])
    assembly.write(0, DATA[:200])
    assembly.write(50, DATA[50:60])
    assembly.write(200, DATA[200:])
    assert assembly.take() == DATA


@pytest.mark.parametrize(
    ("offset", "data", "says"),
    [
        (201, DATA[201:300], "those from 200 are missing"),
        (100, DATA[100:300], "differs from the 200 bytes that are here"),
        (0, b"\xff" * 10, "differs from the 200 bytes that are here"),
        (200, bytes(len(DATA)), "but the whole was announced with 1024"),
        (2**64 - 1, b"x", "but the whole was announced with 1024"),
    ],
    ids=["gap", "overlap", "other bytes", "too many", "overflow"],
)
def test_a_chunk_that_does_not_fit_is_refused_and_changes_nothing(offset: int, data: bytes, says: str):
    assembly = chunks.Assembly(len(DATA), DIGEST)
    assembly.write(0, DATA[:200])
    with pytest.raises(WireError, match=says):
        assembly.write(offset, data)
    assert assembly.received == 200
    assembly.write(200, DATA[200:])
    assert assembly.take() == DATA


@given(st.lists(st.tuples(st.integers(0, 1100), st.integers(0, 400)), max_size=30))
def test_any_sequence_of_pieces_gives_a_prefix_or_a_refusal(pieces: list[tuple[int, int]]):
    assembly = chunks.Assembly(len(DATA), DIGEST)
    for offset, length in pieces:
        before = assembly.received
        try:
            assembly.write(offset, DATA[offset : offset + length])
        except WireError:
            assert assembly.received == before
    assembly.write(assembly.received, DATA[assembly.received :])
    assert assembly.take() == DATA


def test_other_bytes_than_announced_are_not_handed_out():
    assembly = chunks.Assembly(len(DATA), DIGEST)
    assembly.write(0, DATA[:-1] + b"\0")
    assert assembly.complete
    assert not assembly.intact
    with pytest.raises(WireError, match=f"but {DIGEST} was announced"):
        assembly.take()


def test_an_unfinished_whole_is_not_handed_out():
    assembly = chunks.Assembly(len(DATA), DIGEST)
    assembly.write(0, DATA[:10])
    with pytest.raises(WireError, match="10 of 1024 bytes are here"):
        assembly.take()


def test_a_whole_is_handed_out_once():
    assembly = chunks.Assembly(len(DATA), DIGEST)
    assembly.write(0, DATA)
    assembly.take()
    with pytest.raises(WireError, match="taken already"):
        assembly.take()
    with pytest.raises(WireError, match="taken already"):
        assembly.write(0, DATA)


def test_a_whole_of_no_bytes_is_complete_from_the_start():
    assembly = chunks.Assembly(0, blake3.blake3().hexdigest())
    assert assembly.complete
    assert assembly.take() == b""
    with pytest.raises(WireError, match="cannot have -1 bytes"):
        chunks.Assembly(-1, DIGEST)


# ── how long chunks are ──────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.binary(max_size=50), max_size=5), st.lists(st.integers(1, 60), min_size=1), st.integers(0, 20))
def test_chunks_of_any_lengths_are_the_same_bytes(parts: list[bytes], lengths: list[int], offset: int):
    whole = b"".join(parts)
    offset = min(offset, len(whole))
    turns = itertools.cycle(lengths)
    pieces = [chunks.unframe(frame) for frame in chunks.split(parts, offset, lambda: next(turns))]
    assert b"".join(bytes(data) for _, data in pieces) == whole[offset:]
    assert [at for at, _ in pieces] == list(itertools.accumulate([offset, *(len(data) for _, data in pieces[:-1])]))[
        : len(pieces)
    ]


def lengths_at(rate: float, count: int) -> list[int]:
    """Of chunks on a way that takes so many bytes a second."""
    now = 0.0
    pace = chunks.Pace(lambda: now)
    lengths = []
    for _ in range(count):
        lengths.append(pace())
        now += lengths[-1] / rate
    return lengths


def test_chunks_are_long_where_the_network_is_quick():
    assert lengths_at(1e9, 6) == [1 << 16, 1 << 17, 1 << 18, 1 << 19, chunks.CHUNK, chunks.CHUNK]


@pytest.mark.parametrize(("rate", "length"), [(125_000, 62_500), (20_000, 1 << 14), (2_000, 1 << 14)])
def test_a_chunk_takes_half_a_second_where_the_network_is_slow(rate: float, length: int):
    assert lengths_at(rate, 4)[1:] == [length] * 3
