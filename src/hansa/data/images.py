"""Folders of images: one folder for each class, and around those, where there are many owners, one for each owner.

    FOLDER/CLASS/*.png                  read(FOLDER): some are held out for testing
    FOLDER/train/CLASS/*.png, test/…    read(FOLDER)
    FOLDER/OWNER/CLASS/*.png            read_clients(FOLDER)

PNG, JPEG, BMP, WebP, PPM and GIF (the first frame) are read, by their content. The size that an image claims is
checked before it is decoded. Needs the extra `images`.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hansa.arrays import Array
from hansa.data.examples import Examples, Split, hold_out
from hansa.data.federated import FederatedData, Names
from hansa.errors import InputError, MissingExtraError

__all__ = ["read", "read_clients"]

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "GIF")
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".gif"})
_CHANNELS = frozenset({"L", "RGB", "RGBA"})
_MAX_PIXELS = 1 << 26
"""An image that claims more is not decoded: 67 million pixels, 200 MB."""
_TESTS = ("test", "val", "validation")


def read(
    folder: str | Path,
    *,
    size: tuple[int, int] | None = None,
    channels: str = "RGB",
    classes: Sequence[str] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Split:
    """Images uint8 of shape (n, height, width, 3), 0 to 255, and labels int64 of shape (n,), the class's number.

    Args:
        folder: as above; within a class the images are in the order of their names.
        size: (height, width) to which every image is scaled; None: they must all have one size.
        channels: "RGB"; "RGBA"; or "L", grey, of shape (n, height, width).
        classes: the names of the classes in the order of their numbers; None: the folders, sorted.
        test_fraction: 0 ≤ f < 1 of the images, drawn with `seed`, are for testing where there is no test folder.
        seed: of that choice.

    Raises `InputError`, naming the file: one that is no image, is cut off, claims an absurd size, or has another size.

    """
    _check_scaled(size)
    given = Path(folder)
    tests = [given / name for name in _TESTS if (given / name).is_dir()]
    if (given / "train").is_dir() and tests:
        known = classes or _folders(given / "train")
        return Split(*(_examples(part, known, size, channels) for part in (given / "train", tests[0])))
    whole = _examples(given, classes or _folders(given), size, channels)
    return hold_out(whole, test_fraction, np.random.default_rng(seed))


def read_clients(
    folder: str | Path,
    *,
    size: tuple[int, int] | None = None,
    channels: str = "RGB",
    classes: Sequence[str] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> FederatedData:
    """One owner for each folder in `folder`, whose folders are classes; only names are read before an owner is.

    Without `classes` they are the folders of all owners together, sorted.
    """
    _check_scaled(size)
    given = Path(folder)
    owners = _folders(given)
    known = classes or sorted({name for owner in owners for name in _folders(given / owner)})

    def one(name: str) -> Split:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        return hold_out(_examples(given / name, known, size, channels), test_fraction, rng)

    return FederatedData(Names(owners), one, what="owner")


def _check_scaled(size: object) -> None:
    two = isinstance(size, Sequence) and len(size) == 2 and all(isinstance(each, int) and each > 0 for each in size)  # noqa: PLR2004
    if size is not None and not two:
        raise InputError(f"size is {size!r}; it must be (height, width), two whole numbers above 0")


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the one with a folder for each class")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise InputError(f"{folder} has no folders; put the images of each class into a folder of its name")
    return found


def _examples(folder: Path, classes: Sequence[str], size: tuple[int, int] | None, channels: str) -> Examples:
    if channels not in _CHANNELS:
        raise InputError(f"channels is {channels!r}; there is: {', '.join(sorted(_CHANNELS))}")
    if strangers := sorted(set(_folders(folder)) - set(classes)):
        raise InputError(f"{folder} has the folder {strangers[0]!r}, which is no class; there is: {', '.join(classes)}")
    files, labels = [], []
    for label, name in enumerate(classes):
        inside = sorted((folder / name).iterdir()) if (folder / name).is_dir() else []
        found = [file for file in inside if file.suffix.lower() in _SUFFIXES]
        files += found
        labels += [label] * len(found)
    if not files:
        raise InputError(f"{folder} has no images; there is: {', '.join(sorted(_SUFFIXES))}")
    first = _image(files[0], size, channels)
    images = np.empty((len(files), *first.shape), np.uint8)
    for place, file in enumerate(files):
        image = _image(file, size, channels)
        if image.shape != first.shape:
            raise InputError(f"{file} is {image.shape[:2]}, {files[0]} is {first.shape[:2]}; give size=(height, width)")
        images[place] = image
    return Examples(images, np.array(labels, np.int64))


def _image(file: Path, size: tuple[int, int] | None, channels: str) -> Array:
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("reading images", "images") from error
    failures: tuple[Any, ...] = (OSError, SyntaxError, ValueError, UnidentifiedImageError, EOFError)
    bombs: tuple[Any, ...] = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(file, formats=_FORMATS) as opened:
            _check_size(opened.width, opened.height)
            _check_depth(opened.mode, file)
            image = opened.convert(channels)
            if size is not None and image.size != (size[1], size[0]):
                image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            return np.asarray(image, np.uint8)
    except (*failures, *bombs) as error:
        raise InputError(f"{file} cannot be read: {error}; is it an image, and complete?") from error


def _check_depth(mode: str, file: Path) -> None:
    """Of 16 bits Pillow would keep the lowest values alone, and take all others for white."""
    if mode.startswith(("I", "F")):
        raise InputError(
            f"{file} has more than 8 bits a value, of which most would be lost: scale it to 8 bits, or read it by a "
            "function of your own (hansa.data.FederatedData)"
        )


def _check_size(width: int, height: int) -> None:
    if width * height > _MAX_PIXELS:
        raise ValueError(f"it claims {width} × {height} pixels, more than {_MAX_PIXELS:,}")
