import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hansa.data import idx
from hansa.errors import InputError

many = settings(derandomize=True, deadline=None, max_examples=100)

TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array: np.ndarray) -> bytes:
    """An IDX file, written from the format's description."""
    code = TYPES[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@many
@given(
    array=st.sampled_from(sorted(TYPES)).flatmap(
        lambda code: hnp.arrays(np.dtype(code), hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
    ),
    zipped=st.booleans(),
)
def test_what_was_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, *, zipped: bool
) -> None:
    file = tmp_path_factory.mktemp("idx") / "any-name"
    file.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    read = idx.read(file)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


GOOD = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "begins with nothing"),
        (GOOD[:3], "not an IDX file"),
        (b"\x01" + GOOD[1:], "not an IDX file"),
        (b"\0\0\x0a" + GOOD[3:], "not an IDX file"),
        (b"\0\0\x08\0" + GOOD[4:], "0 dimensions"),
        (b"\0\0\x08\x09" + GOOD[4:], "9 dimensions"),
        (GOOD[:9], "ends within its header"),
        (GOOD[:-1], "there are 5"),
        (GOOD + b"\0", "there are more"),
        (b"\0\0\x08\x02" + b"\xff" * 8, "too short"),
        (gzip.compress(b"\0\0\x08\x02" + b"\xff" * 8, mtime=0), "too short"),
        (gzip.compress(GOOD[:-1], mtime=0), "there are 5"),
        (gzip.compress(GOOD + b"\0", mtime=0), "there are more"),
        (gzip.compress(GOOD, mtime=0)[:-9], "is the file complete"),
        (b"\x1f\x8b" + GOOD, "cannot be read"),
        (gzip.compress(GOOD, mtime=0)[:-6] + b"\0\0\0\0\0\0", "cannot be read"),
    ],
)
def test_a_file_that_is_not_what_its_header_says_is_refused_by_name(tmp_path: Path, content: bytes, match: str) -> None:
    file = tmp_path / "broken-idx"
    file.write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        idx.read(file)
    assert "broken-idx" in str(caught.value)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        idx.read(tmp_path / "nowhere")
