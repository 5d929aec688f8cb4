"""The recipes whose data are images, on a few images in files of the same layout: each row runs as it is written."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hansa
from hansa.experiments import load_recipe, run_recipe
from hansa.experiments.recipes import Recipe, RecipeRow
from hansa.simulation import SimulationResult

pytest.importorskip("torch")

PATTERNS = np.random.default_rng(0).integers(0, 256, (10, 28, 28)).astype(np.uint8)
"""An image per label: whoever has seen each of them once can tell them all."""


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder of data sets in which mnist/ has 400 train images and 20 test images."""

    def write(name: str, array: np.ndarray) -> None:
        head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (tmp_path / "mnist" / name).write_bytes(head + array.tobytes())

    (tmp_path / "mnist").mkdir()
    for name, count in (("train", 400), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        write(f"{name}-labels-idx1-ubyte", labels)
        write(f"{name}-images-idx3-ubyte", PATTERNS[labels])
    return tmp_path


def simulated(recipe: Recipe, row: RecipeRow, data: Path, **settings: object) -> SimulationResult:
    """One round of a row, with its settings but for these of the app."""
    spec = replace(row.spec, rounds=1, config={**row.spec.config, "data": str(data / recipe.data), **settings})
    return hansa.simulate(recipe.app, spec, clients=row.clients, progress=False)


@pytest.mark.parametrize("name", ["niid_bench", "mnist_2nn", "mnist_cnn"])
def test_each_row_trains_the_network_that_its_paper_has(name: str, mnist: Path) -> None:
    parameters = {"niid_bench": 44_426, "mnist_2nn": 199_210, "mnist_cnn": 1_663_370}[name]
    recipe = load_recipe(name)
    different = {(row.spec.algorithm, row.spec.config["partition"]): row for row in recipe.rows}
    for row in different.values():
        result = simulated(recipe, row, mnist, **({"epochs": 1} if row.clients == 10 else {}))
        assert sum(array.size for array in result.model.values()) == parameters
        assert 0 <= result.rounds[0].central["accuracy"] <= 1
        assert result.rounds[0].evaluation == {}
        assert len(result.rounds[0].accepted) == 10


def test_emnist_is_read_from_the_files_of_tensorflow_federated(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "emnist").mkdir()
    for file, count in (("fed_emnist_train.h5", 20), ("fed_emnist_test.h5", 10)):
        with h5py.File(tmp_path / "emnist" / file, "w") as made:
            for writer in range(4):
                labels = (np.arange(count) + writer) % 10
                made[f"examples/f{writer:04}_00/pixels"] = PATTERNS[labels] / np.float32(255)
                made[f"examples/f{writer:04}_00/label"] = labels.astype(np.int32)
    recipe = load_recipe("emnist_fedopt")
    assert [row.clients for row in recipe.rows] == [3400] * 5
    adam = next(row for row in recipe.rows if row.name == "FedAdam")
    rules, evaluation = replace(adam.spec.rules, count=3), replace(adam.spec.evaluation, every=2)
    few = replace(adam, clients=4, spec=replace(adam.spec, rounds=6, rules=rules, evaluation=evaluation))
    (measured,) = run_recipe(replace(recipe, rows=(few,)), folder=tmp_path / "out", data=tmp_path, jobs=1)
    (record,) = measured.records
    judged = [each["central"] for each in record.rounds if each["central"]]
    assert len(judged) == 3
    # ten of the 62 labels occur
    assert judged[2]["loss"] < judged[0]["loss"] < np.log(62)
    assert measured.value == pytest.approx(np.mean([each["accuracy"] for each in judged]))
