"""Folders of images."""

import struct
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa.data import images
from hansa.errors import InputError, MissingExtraError

Image = pytest.importorskip("PIL.Image")


def save(file: Path, value: int, size: tuple[int, int] = (4, 6)) -> Path:
    """size: height, width."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), (value, 0, 255 - value), np.uint8)).save(file)
    return file


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    chunks = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))):
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return chunks


def test_folders_are_classes(tmp_path: Path) -> None:
    for k, name in enumerate(("cat", "dog", "dog", "cat")):
        save(tmp_path / name / f"{k}.png", 10 * k)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    split = images.read(tmp_path, test_fraction=0)
    assert (split.train.x.shape, split.train.x.dtype) == ((4, 4, 6, 3), np.dtype(np.uint8))
    assert split.train.y.tolist() == [0, 0, 1, 1]
    assert split.train.x[:, 0, 0].tolist() == [[0, 0, 255], [30, 0, 225], [10, 0, 245], [20, 0, 235]]
    assert len(images.read(tmp_path, test_fraction=0.25).test.y) == 1
    grey = images.read(tmp_path, channels="L", size=(2, 2), test_fraction=0)
    assert grey.train.x.shape == (4, 2, 2)


def test_a_test_folder_is_for_testing(tmp_path: Path) -> None:
    save(tmp_path / "train" / "a" / "0.png", 1)
    save(tmp_path / "train" / "b" / "0.png", 2)
    save(tmp_path / "val" / "b" / "0.bmp", 3)
    split = images.read(tmp_path)
    assert (split.train.y.tolist(), split.test.y.tolist()) == ([0, 1], [1])


def test_folders_around_classes_are_owners(tmp_path: Path) -> None:
    save(tmp_path / "ann" / "dog" / "0.png", 1)
    save(tmp_path / "ann" / "cat" / "0.png", 2)
    broken = save(tmp_path / "bob" / "eel" / "0.png", 3)
    owners = images.read_clients(tmp_path, test_fraction=0)
    assert list(owners) == ["ann", "bob"]
    assert owners["ann"].train.y.tolist() == [0, 1]
    assert owners["bob"].train.y.tolist() == [2]
    broken.write_bytes(b"")
    assert owners["ann"].train.y.tolist() == [0, 1]
    with pytest.raises(InputError, match=r"bob.*eel.*0\.png cannot be read"):
        owners["bob"]


def test_what_is_no_image_or_claims_too_much_is_refused_by_name(tmp_path: Path) -> None:
    file = save(tmp_path / "a" / "0.png", 1, (40, 60))
    whole = file.read_bytes()
    for content, match in (
        (b"%!PS-Adobe-3.0\n", "is it an image"),
        (whole[:60], "is it an image, and complete"),
        (png(1 << 15, 1 << 12), r"32768 × 4096 pixels, more than 67,108,864|decompression bomb"),
        (png(1 << 20, 1 << 20), "is it an image"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=match) as caught:
            images.read(tmp_path)
        assert "0.png" in str(caught.value)


def test_images_of_16_bits_are_refused_whose_values_would_nearly_all_be_white(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 6), 300, np.uint16)).save(tmp_path / "a" / "scan.png")
    with pytest.raises(InputError, match=r"scan\.png has more than 8 bits a value"):
        images.read(tmp_path, channels="L")


def test_folders_that_do_not_fit_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        images.read(tmp_path / "none")
    with pytest.raises(InputError, match="has no folders"):
        images.read(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="has no images"):
        images.read(tmp_path)
    save(tmp_path / "a" / "0.png", 1)
    save(tmp_path / "a" / "1.png", 1, (5, 5))
    with pytest.raises(InputError, match=r"1\.png is \(5, 5\).*0\.png is \(4, 6\); give size"):
        images.read(tmp_path)
    with pytest.raises(InputError, match="'a', which is no class; there is: b"):
        images.read(tmp_path, classes=["b"])
    with pytest.raises(InputError, match="channels is 'CMYK'"):
        images.read(tmp_path, channels="CMYK")


@pytest.mark.parametrize("size", [32, (3,), (0, 4), ("3", "4")])
def test_a_size_that_is_none_is_refused_before_anything_is_read(size: Any, tmp_path: Path) -> None:
    for reader in (images.read, images.read_clients):
        with pytest.raises(InputError, match=r"it must be \(height, width\), two whole numbers above 0"):
            reader(tmp_path, size=size)


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a" / "0.png", 1)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"hansa\[images\]"):
        images.read(tmp_path)


def test_the_jpegs_of_cifar_are_read(shared_data: Path, tmp_path: Path) -> None:
    for name in ("ship", "frog"):
        with tarfile.open(shared_data / "cifar10_jpeg" / f"test_{name}.tar.xz") as packed:
            for member in [packed.next() for _ in range(30)]:
                if member is not None and member.isfile():
                    member.name = f"{name}/{Path(member.name).name}"
                    packed.extract(member, tmp_path, filter="data")
    split = images.read(tmp_path)
    assert split.train.x.shape[1:] == (32, 32, 3)
    assert 40 < len(split.train.y) + len(split.test.y) <= 60
    assert set(split.train.y.tolist()) == {0, 1}
    assert 60 < split.train.x.mean() < 190
