"""The bands of the recipes with published numbers, as assertions: `hansa bench run` shows the full tables."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hansa.experiments import Measured, Recipe, Verdict, load_recipe, run_recipe
from hansa.experiments.recipes import RecipeRow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def shortened(recipe: Recipe, rows: Sequence[RecipeRow]) -> Recipe:
    return replace(recipe, rows=tuple(rows))


def outside(measured: Sequence[Measured]) -> list[str]:
    bad = {Verdict.OUTSIDE, Verdict.FAILED}
    return [f"{each.row.name}, {each.target.name}: {each.value}" for each in measured if each.verdict in bad]


def test_fed_heart_disease_is_within_003_of_the_published_accuracies(shared_data: Path, tmp_path: Path) -> None:
    measured = run_recipe(load_recipe("heart_disease"), folder=tmp_path, data=shared_data)
    assert outside(measured) == []
    assert sum(each.verdict is Verdict.REPRODUCED for each in measured) == 8


def test_fedavg_on_mnist_is_within_its_bands(shared_data: Path, tmp_path: Path) -> None:
    measured = run_recipe(load_recipe("mnist_softmax"), folder=tmp_path, data=shared_data, seeds=3)
    assert outside(measured) == []


def test_fedprox_halves_the_training_loss_of_synthetic_and_ignores_stragglers(tmp_path: Path) -> None:
    recipe = load_recipe("fedprox_synthetic")
    fast = [
        replace(row, spec=replace(row.spec, rounds=150), seeds=1)
        for row in recipe.rows
        if row.name != "FedAvg, 90 % stragglers"  # one device per round: too noisy for a band
    ]
    measured = run_recipe(shortened(recipe, fast), folder=tmp_path)
    losses = {each.row.name: each.value for each in measured if each.target.metric == "central.train_loss"}
    accuracies = {each.row.name: each.value for each in measured if each.target.metric == "central.accuracy"}
    fedprox, straggling = "FedProx μ=1", "FedProx μ=1, 90 % stragglers"
    assert losses[fedprox] <= losses["FedAvg"] / 2
    assert losses[straggling] == pytest.approx(losses[fedprox], abs=0.02)
    assert accuracies[straggling] == pytest.approx(accuracies[fedprox], abs=0.01)


def test_local_steps_cost_fedavg_the_optimum_and_others_less_or_nothing(tmp_path: Path) -> None:
    recipe = load_recipe("client_drift")
    rows = [row for row in recipe.rows if row.spec.algorithm in {"fedavg", "fednova", "scaffold"}]
    measured = run_recipe(shortened(recipe, rows), folder=tmp_path)
    assert outside(measured) == []
    equal = {each.row.spec.algorithm: each.value for each in measured if each.row.panel == "20 steps of 0.05"}
    assert equal["fednova"] == pytest.approx(equal["fedavg"], abs=1e-6)  # equal steps leave nothing to normalize


def test_small_batches_reach_97_percent_in_a_sixteenth_of_the_rounds(shared_data: Path, tmp_path: Path) -> None:
    recipe = load_recipe("mnist_2nn")
    rows = [row for row in recipe.rows if row.panel == "IID"]
    measured = run_recipe(shortened(recipe, rows), folder=tmp_path, data=shared_data, seeds=1)
    assert outside(measured) == []
    assert any(each.target.faster_than and each.verdict is Verdict.REPRODUCED for each in measured)


def test_the_cnn_reaches_99_percent_in_as_many_rounds_as_published(shared_data: Path, tmp_path: Path) -> None:
    recipe = load_recipe("mnist_cnn")
    measured = run_recipe(recipe, folder=tmp_path, data=shared_data, rows=["IID, E = 1, B = 10"])
    assert [each.verdict for each in measured] == [Verdict.REPRODUCED]


def test_fedavg_on_dirichlet_parts_of_mnist_is_at_98_percent_after_eight_rounds(
    shared_data: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("niid_bench")  # all of a row takes more than half an hour
    rows = [replace(row, spec=replace(row.spec, rounds=8)) for row in recipe.rows if row.name == "FedAvg, Dir(0.5)"]
    (measured,) = run_recipe(shortened(recipe, rows), folder=tmp_path, data=shared_data)
    assert measured.value == pytest.approx(0.984, abs=0.004)
