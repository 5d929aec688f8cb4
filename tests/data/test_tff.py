"""The HDF5 files of TensorFlow Federated."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa.data import tff
from hansa.errors import InputError
from hansa.messages import ClientInfo

h5py = pytest.importorskip("h5py")


def write(file: Path, clients: dict[str, dict[str, Any]]) -> Path:
    with h5py.File(file, "w") as made:
        for name, fields in clients.items():
            for field, values in fields.items():
                made[f"examples/{name}/{field}"] = values
    return file


def images(count: int, label: int) -> dict[str, Any]:
    return {"pixels": np.full((count, 28, 28), label / 10, np.float32), "label": np.full(count, label, np.int32)}


@pytest.fixture
def emnist(tmp_path: Path) -> tuple[Path, Path]:
    train = {f"f{k:04}_01": images(3 + k, k) for k in range(6)}
    test = {f"f{k:04}_01": images(2, k) for k in range(5)}
    return write(tmp_path / "train.h5", train), write(tmp_path / "test.h5", test)


def test_each_client_has_its_train_and_test_examples(emnist: tuple[Path, Path]) -> None:
    users = tff.read_clients(*emnist)
    assert list(users) == [f"f{k:04}_01" for k in range(6)]
    second = users["f0002_01"]
    assert (second.train.x.shape, second.train.x.dtype) == ((5, 28, 28), np.dtype(np.float32))
    assert second.train.y.tolist() == [2] * 5
    assert second.test.y.tolist() == [2, 2]
    assert users["f0005_01"].test.x.shape == (0, 28, 28)
    assert len(users.share(ClientInfo("c", 0, 3)).train.y) == 3 + 6
    assert tff.read_clients(emnist[0])["f0000_01"].test.y.tolist() == []


def test_text_is_read_as_text(tmp_path: Path) -> None:
    said = write(tmp_path / "s.h5", {"PLAY_A": {"snippets": ["To be", "or nöt to be"]}})
    split = tff.read_clients(said)["PLAY_A"]
    assert split.train.x.tolist() == split.train.y.tolist() == ["To be", "or nöt to be"]
    fields = {"tokens": ["how to", "why"], "tags": ["c|d", "e"], "score": np.array([3, 4]), "title": ["", "t"]}
    asked = write(tmp_path / "so.h5", {"00000001": fields})
    split = tff.read_clients(asked)["00000001"]
    assert (split.train.x.tolist(), split.train.y.tolist()) == (["how to", "why"], ["c|d", "e"])
    scores = tff.read_clients(asked, y="score")["00000001"]
    assert scores.train.y.tolist() == [3, 4]


def _sum(users: Any, name: str) -> int:
    return int(users[name].train.y.sum())


FORKS = """
import os, sys
from pathlib import Path
from hansa.data import tff

users = tff.read_clients(*map(Path, sys.argv[1:]))
users[users.names[5]]
for k in range(3):
    if os.fork() == 0:
        os.write(1, f"{int(users[users.names[k]].train.y.sum())}\\n".encode())
        os._exit(0)
for k in range(3):
    assert os.wait()[1] == 0
"""
"""In a process of its own: others may have threads, which do not go with a fork."""


def test_threads_and_processes_read_the_same_file_at_once(emnist: tuple[Path, Path]) -> None:
    users = tff.read_clients(*emnist)
    expected = [k * (3 + k) for k in range(6)]
    found: dict[int, int] = {}
    threads = [threading.Thread(target=lambda k=k: found.update({k: _sum(users, users.names[k])})) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[k] for k in range(6)] == expected
    done = subprocess.run([sys.executable, "-c", FORKS, *map(str, emnist)], capture_output=True, text=True, check=False)
    assert (sorted(map(int, done.stdout.split())), done.stderr) == (sorted(expected[:3]), "")


def absurd(file: Path) -> None:
    """A terabyte of zeros that were never stored."""
    with h5py.File(file, "w") as made:
        made.create_dataset("examples/a/pixels", shape=(1 << 28, 28, 28), dtype="f4", chunks=(1, 28, 28))
        made["examples/a/label"] = np.zeros(3, np.int32)


def linked(file: Path) -> None:
    with h5py.File(file, "w") as made:
        made["examples/a/label"] = np.zeros(3, np.int32)
        made["examples/a/pixels"] = h5py.ExternalLink("/etc/passwd", "/x")


def virtual(file: Path) -> None:
    layout = h5py.VirtualLayout(shape=(3,), dtype="f4")
    layout[...] = h5py.VirtualSource("elsewhere.h5", "v", shape=(3,))
    with h5py.File(file, "w") as made:
        made["examples/a/label"] = np.zeros(3, np.int32)
        made.create_virtual_dataset("examples/a/pixels", layout)


def elsewhere(file: Path) -> None:
    (file.parent / "raw").write_bytes(bytes(12))
    with h5py.File(file, "w") as made:
        made["examples/a/label"] = np.zeros(3, np.int32)
        made["examples/a"].create_dataset("pixels", (3,), "f4", external=[(str(file.parent / "raw"), 0, 12)])


def ragged(file: Path) -> None:
    write(file, {"a": {"pixels": np.zeros((3, 2)), "label": np.zeros(4)}})


def nested(file: Path) -> None:
    write(file, {"a": {"pixels/more": np.zeros(3), "label": np.zeros(3)}})


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no HDF5": (lambda file: file.write_bytes(b"\x80\x04" + bytes(500)), "is it an HDF5 file"),
    "empty": (lambda file: file.write_bytes(b""), "is it an HDF5 file"),
    "no examples": (lambda file: h5py.File(file, "w").close(), "has no 'examples'"),
    "no clients": (lambda file: h5py.File(file, "w").create_group("examples").file.close(), "no clients"),
    "other fields": (lambda file: write(file, {"a": {"t": [1]}}), "has the fields t; say which"),
    "absurd": (absurd, "only 0 bytes are stored"),
    "a link out": (linked, "is a ExternalLink to elsewhere"),
    "virtual": (virtual, "values in another file"),
    "external": (elsewhere, "values in another file"),
    "ragged": (ragged, r"\(3, 2\) of pixels and \(4,\) of label"),
    "a group for values": (nested, "is a group"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_by_name(tmp_path: Path, case: str) -> None:
    make, match = HOSTILE[case]
    make(tmp_path / "f.h5")
    with pytest.raises(InputError, match=match) as caught:
        tff.read_clients(tmp_path / "f.h5")["a"]
    assert "f.h5" in str(caught.value)


def test_a_file_that_is_cut_off_anywhere_is_refused_or_read(emnist: tuple[Path, Path], tmp_path: Path) -> None:
    whole = emnist[0].read_bytes()
    cut = tmp_path / "cut.h5"
    for end in range(0, len(whole), max(1, len(whole) // 20)):
        cut.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"cut\.h5"):
            list(tff.read_clients(cut).values())


def test_a_file_or_field_that_is_not_there_is_named(emnist: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*none\.h5"):
        tff.read_clients(tmp_path / "none.h5")
    with pytest.raises(InputError, match="no field 'colour'; it has label, pixels"):
        tff.read_clients(emnist[0], x="colour")
