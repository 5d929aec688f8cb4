"""CIFAR in its binary version."""

from pathlib import Path

import numpy as np
import pytest

from hansa.data import cifar
from hansa.errors import InputError


def records(*labels: tuple[int, ...]) -> bytes:
    return b"".join(bytes(label) + bytes([sum(label)]) * 3072 for label in labels)


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for k in range(1, 6):
        (folder / f"data_batch_{k}.bin").write_bytes(records((k,), (9,)))
    (folder / "test_batch.bin").write_bytes(records((0,)))
    return tmp_path


def test_all_batches_are_read_in_order(ten: Path) -> None:
    split = cifar.read(ten)
    assert split.train.y.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert (split.train.x.shape, split.train.x.dtype) == ((10, 3, 32, 32), np.dtype(np.uint8))
    assert split.train.x[2].tolist() == np.full((3, 32, 32), 2).tolist()
    assert split.test.y.tolist() == [0]
    with pytest.raises(InputError, match="no coarse labels"):
        cifar.read_coarse(ten)


def test_red_comes_first_and_rows_before_columns(tmp_path: Path) -> None:
    image = np.arange(3072, dtype=np.int64).reshape(3, 32, 32) % 251
    (tmp_path / "train.bin").write_bytes(bytes([3, 77]) + image.astype(np.uint8).tobytes())
    (tmp_path / "test.bin").write_bytes(records((1, 2), (19, 99)))
    split = cifar.read(tmp_path)
    assert np.array_equal(split.train.x[0], image)
    assert (split.train.y.tolist(), split.test.y.tolist()) == ([77], [2, 99])
    assert [labels.tolist() for labels in cifar.read_coarse(tmp_path)] == [[3], [1, 19]]


def test_the_python_version_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(InputError, match=r"made of pickles.*take the binary version"):
        cifar.read(tmp_path)


def test_what_is_cut_off_missing_or_out_of_range_is_refused_by_name(ten: Path) -> None:
    folder = ten / "cifar-10-batches-bin"
    third = folder / "data_batch_3.bin"
    whole = third.read_bytes()
    for content, match in (
        (whole[:-1], "no whole number of records"),
        (b"", "no whole number of records"),
        (records((10,)), "has the label 10; expected 0 to 9"),
    ):
        third.write_bytes(content)
        with pytest.raises(InputError, match=match) as caught:
            cifar.read(ten)
        assert "data_batch_3.bin" in str(caught.value)
    third.unlink()
    with pytest.raises(InputError, match=r"there is no .*data_batch_3\.bin; unpack"):
        cifar.read(ten)
    with pytest.raises(InputError, match="neither test_batch"):
        cifar.read(ten / "nowhere")
