import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from hansa.data import mnist
from hansa.errors import InputError


def _write(folder: Path, name: str, array: np.ndarray) -> None:
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def _images(first: int, count: int) -> np.ndarray:
    return np.arange(first * 4, (first + count) * 4, dtype=np.uint8).reshape(count, 2, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve train images in eleven parts and two test images."""
    for part in range(11):
        _write(tmp_path, f"train-images-part{part}-idx3-ubyte.gz", _images(part, 2 if part == 10 else 1))
    _write(tmp_path, "train-labels-idx1-ubyte.gz", np.arange(12, dtype=np.uint8))
    _write(tmp_path, "t10k-images.idx3-ubyte", _images(0, 2))
    _write(tmp_path, "t10k-labels-idx1-ubyte", np.array([3, 4], np.uint8))
    return tmp_path


def test_parts_are_joined_in_the_order_of_their_numbers_not_of_their_names(folder: Path) -> None:
    split = mnist.read(folder)
    np.testing.assert_array_equal(split.train.x, _images(0, 12))
    assert split.train.y.tolist() == list(range(12))
    assert split.test.x.shape == (2, 2, 2)
    assert split.test.y.tolist() == [3, 4]


def test_a_missing_part_is_named(folder: Path) -> None:
    (folder / "train-images-part3-idx3-ubyte.gz").unlink()
    with pytest.raises(InputError, match="a part is missing"):
        mnist.read(folder)


def test_a_missing_last_part_shows_as_fewer_images_than_labels(folder: Path) -> None:
    (folder / "train-images-part10-idx3-ubyte.gz").unlink()
    with pytest.raises(InputError, match="10 train images, but 12 labels"):
        mnist.read(folder)


def test_a_part_of_another_image_size_is_refused(folder: Path) -> None:
    _write(folder, "train-images-part4-idx3-ubyte.gz", np.zeros((1, 3, 3), np.uint8))
    with pytest.raises(InputError, match=r"uint8\[1, 3, 3\]"):
        mnist.read(folder)


def test_an_empty_directory_and_none_at_all_say_which_file_is_expected(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no train-images-idx3-ubyte"):
            mnist.read(directory)


def test_the_assembled_training_images_have_the_official_digest(shared_data: Path) -> None:
    split = mnist.read(shared_data / "mnist")
    header = bytes([0, 0, 8, 3]) + struct.pack(">3I", *split.train.x.shape)
    digest = hashlib.md5(header + split.train.x.tobytes(), usedforsecurity=False).hexdigest()
    assert digest == "6bbc9ace898e44ae57da46a324031adb"
    assert np.bincount(split.train.y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert split.test.x.shape == (10_000, 28, 28)
