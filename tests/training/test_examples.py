"""The examples that train with a framework or a program, as a user runs them."""

import struct
from pathlib import Path

import numpy as np
import pytest

import hansa
from hansa.data import digits
from hansa.simulation import SimulationResult

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def accuracies(result: SimulationResult) -> list[float]:
    assert not any(record.failed or record.rejected or record.failed_evaluations for record in result.rounds)
    return [record.evaluation["accuracy"] for record in result.rounds]


def test_owners_of_uneven_digits_train_a_scikit_learn_classifier() -> None:
    pytest.importorskip("sklearn")
    assert accuracies(hansa.simulate(EXAMPLES / "sklearn_digits", clients=10, rounds=5))[-1] > 0.9


def test_a_c_program_trains_with_fedavg_and_fedprox() -> None:
    averaged = hansa.simulate(EXAMPLES / "blackbox", clients=5, rounds=3)
    assert accuracies(averaged)[-1] > 0.9
    held = hansa.simulate(
        EXAMPLES / "blackbox", clients=5, rounds=3, algorithm="fedprox", algorithm_options={"mu": 0.1}
    )
    assert accuracies(held)[-1] > 0.9
    assert held.model_hash != averaged.model_hash


def test_the_convolutional_network_learns_from_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    whole = digits.read()
    for name, (x, y), size in (("train", whole.train, 250), ("t10k", whole.test, 60)):
        images = np.kron(x[:size].reshape(-1, 8, 8), np.ones((3, 3))) * 255  # 8 × 8 pixels as 24 × 24 …
        images = np.pad(images, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)  # … in the middle of 28 × 28
        header = struct.pack(">4B3I", 0, 0, 8, 3, size, 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = struct.pack(">4BI", 0, 0, 8, 1, size) + y[:size].astype(np.uint8).tobytes()
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    monkeypatch.chdir(tmp_path)
    assert accuracies(hansa.simulate(EXAMPLES / "mnist_cnn", clients=2, rounds=3))[-1] > 0.4
