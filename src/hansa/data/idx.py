"""IDX files, the format of MNIST: a header of magic, type and sizes, then the values, big-endian.

| bytes     | what                                                                                    |
|-----------|-----------------------------------------------------------------------------------------|
| 0–1       | 0, 0                                                                                    |
| 2         | type: 08 uint8, 09 int8, 0B int16, 0C int32, 0D float32, 0E float64                     |
| 3         | number of dimensions d, 1 to 8 here                                                     |
| 4 to 3+4d | the size of each dimension, uint32                                                      |
| then      | the values, last dimension fastest; their number is the product of the sizes, no more   |

LeCun, Cortes, Burges: "The MNIST database of handwritten digits".
"""

import gzip
import math
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path
from types import MappingProxyType

import numpy as np

from hansa.arrays import Array
from hansa.errors import InputError

__all__ = ["read"]

_TYPES = MappingProxyType({0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"})

_MAX_DIMENSIONS = 8

_MAX_RATIO = 1032
"""The most bytes that one byte of a deflate stream can expand to: a larger claim is not worth an allocation."""

_GZIP = b"\x1f\x8b"


def read(path: str | Path) -> Array:
    """The array of an IDX file, plain or gzipped (by its content, not its name), in the machine's byte order.

    Raises `InputError`, naming the file, when the header is not IDX or the values are more or fewer than it says.
    """
    file = Path(path)
    try:
        with file.open("rb") as raw:
            compressed = raw.read(2) == _GZIP
            raw.seek(0)
            if not compressed:
                return _parsed(raw, file, file.stat().st_size)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _parsed(stream, file, file.stat().st_size * _MAX_RATIO)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} cannot be read: {error}; is the file complete?") from error


def _parsed(stream: BufferedIOBase, file: Path, limit: int) -> Array:
    """limit: bytes that the stream can hold at most."""
    magic = stream.read(4)
    if len(magic) < len("\0\0td") or magic[:2] != b"\0\0" or magic[2] not in _TYPES:
        raise InputError(f"{file} is not an IDX file: it begins with {magic.hex(' ') or 'nothing'}")
    if not 1 <= magic[3] <= _MAX_DIMENSIONS:
        raise InputError(f"{file} is not an IDX file: it claims {magic[3]} dimensions, 1 to {_MAX_DIMENSIONS} are read")
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise InputError(f"{file} ends within its header")
    shape = struct.unpack(f">{magic[3]}I", header)
    dtype = np.dtype(_TYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    if expected > limit:
        raise InputError(f"{file} is too short: {list(shape)} {dtype} values are {expected:,} bytes")
    values = stream.read(expected + 1)
    if len(values) != expected:
        found = "there are more" if len(values) > expected else f"there are {len(values):,}"
        raise InputError(f"{file} claims {list(shape)} {dtype} values, {expected:,} bytes, but {found}")
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="))
