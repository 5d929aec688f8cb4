"""MNIST (and its lookalikes: Fashion-MNIST, EMNIST digits …) from a directory with its IDX files.

LeCun, Bottou, Bengio, Haffner: "Gradient-based learning applied to document recognition", 1998.
"""

import re
from pathlib import Path

import numpy as np

from hansa.arrays import Array
from hansa.data import idx
from hansa.data.examples import Examples, Split
from hansa.errors import InputError

__all__ = ["read"]


def read(directory: str | Path) -> Split:
    """Images uint8 of shape (n, height, width), 0 to 255, and labels uint8 of shape (n,); 60,000 train and 10,000 test.

    directory: holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte;
    each plain or with `.gz`, or in numbered parts (train-images-part0-idx3-ubyte.gz …), which are joined in order.
    """
    folder = Path(directory)
    return Split(train=_examples(folder, "train"), test=_examples(folder, "t10k"))


def _examples(folder: Path, which: str) -> Examples:
    images = _joined(folder, f"{which}-images", dimensions=3)
    labels = _joined(folder, f"{which}-labels", dimensions=1)
    if len(images) != len(labels):
        raise InputError(f"{folder} has {len(images)} {which} images, but {len(labels)} labels; is a part missing?")
    return Examples(images, labels)


def _joined(folder: Path, stem: str, dimensions: int) -> Array:
    pieces = [idx.read(file) for file in _files(folder, stem, dimensions)]
    for piece in pieces:
        if piece.ndim != dimensions or piece.dtype != np.uint8 or piece.shape[1:] != pieces[0].shape[1:]:
            raise InputError(
                f"{stem} of {folder} has a file of {piece.dtype}{list(piece.shape)}; expected uint8, {dimensions} "
                "dimensions, every part of one image size"
            )
    return np.concatenate(pieces)


def _files(folder: Path, stem: str, dimensions: int) -> list[Path]:
    """The one file, or the parts in the order of their numbers; of a file and its .gz, the plain one."""
    pattern = re.compile(rf"{re.escape(stem)}(?:-part(\d+))?[-.]idx{dimensions}-ubyte(\.gz)?")
    found: dict[int | None, Path] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if match := pattern.fullmatch(file.name):
            found.setdefault(None if match[1] is None else int(match[1]), file)
    whole = found.pop(None, None)
    if whole is not None:
        return [whole]
    numbers = sorted(number for number in found if number is not None)
    if not numbers:
        raise InputError(f"{folder} has no {stem}-idx{dimensions}-ubyte(.gz); give the directory of the IDX files")
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
        raise InputError(f"{folder} has the parts {numbers} of {stem}; a part is missing")
    return [found[number] for number in numbers]
