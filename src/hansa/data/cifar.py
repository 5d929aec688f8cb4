"""CIFAR-10 and CIFAR-100 in their binary version: records of one or two labels and 3 × 32 × 32 bytes.

| data set  | files                                    | a record                                            |
|-----------|------------------------------------------|-----------------------------------------------------|
| CIFAR-10  | data_batch_1.bin … _5.bin, test_batch.bin | label 0 to 9, then red, green, blue, row by row     |
| CIFAR-100 | train.bin, test.bin                      | coarse label 0 to 19, fine label 0 to 99, then alike |

The "python version" is made of pickles. A pickle is a program, so it is never loaded here: take the binary version, the
same images, from cifar-10-binary.tar.gz or cifar-100-binary.tar.gz.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from pathlib import Path

import numpy as np

from hansa.arrays import Array
from hansa.data.examples import Examples, Split
from hansa.errors import InputError

__all__ = ["read", "read_coarse"]

_PIXELS = 3 * 32 * 32
_FINE, _COARSE, _TEN = 100, 20, 10
_PICKLES = ("data_batch_1", "test_batch", "train", "test")


def read(directory: str | Path) -> Split:
    """Images uint8 of shape (n, 3, 32, 32), 0 to 255, and labels int64 of shape (n,): 50,000 train, 10,000 test.

    directory: holds the files of one of the two data sets, or the folder that the archive makes. Of CIFAR-100 the
    labels are the fine ones, 0 to 99. Raises `InputError`, naming the file, where one is missing, cut off, or has a
    label that is out of range.
    """
    train, test, heads = _files(Path(directory))
    return Split(*(Examples(_images(records, heads), _labels(records, heads)) for records in (train, test)))


def read_coarse(directory: str | Path) -> tuple[Array, Array]:
    """The coarse labels of CIFAR-100, int64 of shape (n,), 0 to 19: of the training and of the test examples."""
    train, test, heads = _files(Path(directory))
    if heads != 2:  # noqa: PLR2004 - labels of a record
        raise InputError(f"{directory} has CIFAR-10, which has no coarse labels; give the directory of CIFAR-100")
    return train[:, 0].astype(np.int64), test[:, 0].astype(np.int64)


def _files(given: Path) -> tuple[Array, Array, int]:
    """The records of train and test, uint8 of shape (n, labels + pixels), and the number of labels."""
    inner = [given / name for name in ("cifar-10-batches-bin", "cifar-100-binary")]
    for folder in (given, *inner):
        if (folder / "test_batch.bin").is_file():
            batches = [folder / f"data_batch_{k}.bin" for k in range(1, 6)]
            return np.concatenate([_records(batch, 1) for batch in batches]), _records(folder / "test_batch.bin", 1), 1
        if (folder / "train.bin").is_file():
            return _records(folder / "train.bin", 2), _records(folder / "test.bin", 2), 2
    nested = [given / name for name in ("cifar-10-batches-py", "cifar-100-python")]
    if any((folder / name).is_file() for folder in (given, *nested) for name in _PICKLES):
        raise InputError(
            f"{given} has the python version of CIFAR, which is made of pickles: they can run any program, and are not "
            "read; take the binary version (cifar-10-binary.tar.gz, cifar-100-binary.tar.gz), the same images"
        )
    raise InputError(f"{given} has neither test_batch.bin (CIFAR-10) nor train.bin (CIFAR-100); give their directory")


def _records(file: Path, heads: int) -> Array:
    if not file.is_file():
        raise InputError(f"there is no {file}; unpack the whole archive")
    size, width = file.stat().st_size, heads + _PIXELS
    if size == 0 or size % width:
        raise InputError(f"{file} has {size:,} bytes, no whole number of records of {width:,}; is it complete?")
    records = np.fromfile(file, np.uint8).reshape(-1, width)
    for column, limit in enumerate((_TEN,) if heads == 1 else (_COARSE, _FINE)):
        if (most := int(records[:, column].max())) >= limit:
            raise InputError(f"{file} has the label {most}; expected 0 to {limit - 1}: is it the binary version?")
    return records


def _images(records: Array, heads: int) -> Array:
    return np.ascontiguousarray(records[:, heads:]).reshape(-1, 3, 32, 32)


def _labels(records: Array, heads: int) -> Array:
    return records[:, heads - 1].astype(np.int64)
