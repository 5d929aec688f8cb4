"""Statistics of a table that is spread over clients, against numpy and Python on the joined table, to the bit."""

import statistics as pooled
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import State
from hansa.algorithms.statistics import statistics
from hansa.errors import AppError, ConfigError, InputError
from hansa.simulation import Table
from hansa.testing.federation import play, task_of
from hansa.training.tables import TableTrainer, bin_edges, summary

MEAN = WeightedMean()
QUANTILES = (0.0, 0.25, 0.5, 0.9, 1.0)
EXACT = 8
"""Passes after which quantiles are exact."""

few = settings(derandomize=True, deadline=None, max_examples=15)


def table(seed: int, rows: int) -> dict[str, Any]:
    """Columns of very different scales, one of them with ties and gaps."""
    rng = np.random.default_rng(seed)
    gaps = rng.integers(0, 5, rows).astype(float)
    gaps[rng.random(rows) < 0.2] = np.nan
    wide = np.exp(rng.normal(0, 10, rows)) * rng.choice([-1, 1], rows)
    return {"near": rng.normal(1e6, 1, rows), "wide": wide, "gaps": gaps}


def spread(columns: dict[str, Any], clients: int, seed: int) -> dict[str, Any]:
    rows = len(next(iter(columns.values())))
    owner = np.concatenate([np.arange(clients), np.random.default_rng(seed).integers(0, clients, rows - clients)])
    return {f"c{k}": {name: column[owner == k] for name, column in columns.items()} for k in range(clients)}


def passes(columns: dict[str, Any], clients: int, rounds: int, seed: int = 0, **asked: Any) -> list[State]:
    trainer = TableTrainer(list(columns), QUANTILES, **asked)
    return list(play(statistics(MEAN), trainer, spread(columns, clients, seed), rounds=rounds))


@few
@given(seed=st.integers(0, 1000), rows=st.integers(5, 60), clients=st.integers(1, 5))
def test_the_first_pass_gives_the_exact_moments_of_the_joined_table(seed: int, rows: int, clients: int):
    columns = table(seed, rows)
    found = passes(columns, clients, 1, seed)[-1].params
    for name, values in columns.items():
        there = values[~np.isnan(values)].tolist()
        assert (found[f"{name}/count"], found[f"{name}/missing"]) == (len(there), rows - len(there))
        if len(there) > 1:
            assert found[f"{name}/mean"] == pooled.mean(there)
            assert found[f"{name}/variance"] == pooled.variance(there)


def test_quantiles_are_within_the_stated_bounds_after_each_pass_and_exact_after_eight():
    columns = table(3, 200)
    for number, state in enumerate(passes(columns, 4, EXACT + 1)):
        for name, values in columns.items() if number else ():
            true = np.quantile(values[~np.isnan(values)], QUANTILES, method="inverted_cdf")
            _, low, high = state.params[f"{name}/quantiles"].T
            assert (low <= true).all()
            assert (true <= high).all()
            if number > 2:
                assert (high - low <= 2.0 ** (12 - 8 * number) * np.maximum(np.abs(true), 2.0**-1000)).all()
            if number >= EXACT:
                assert (low == true).all()
                assert (high == true).all()


def test_a_histogram_is_numpys_between_the_bounds_of_the_pass_before():
    columns = table(4, 150)
    found = passes(columns, 3, EXACT + 1, bins=6)[-1].params
    for name, values in columns.items():
        there = values[~np.isnan(values)]
        counts, edges = np.histogram(there, 6)
        np.testing.assert_array_equal(found[f"{name}/edges"], edges)
        np.testing.assert_array_equal(found[f"{name}/histogram"], counts)


def test_the_covariance_is_that_of_the_rows_that_lack_nothing():
    columns = table(5, 100)
    found = passes(columns, 3, 1, covariance=True)[-1].params
    rows = np.stack(list(columns.values()))[:, ~np.isnan(columns["gaps"])]
    assert found["complete"] == rows.shape[1]
    np.testing.assert_allclose(found["covariance"], np.cov(rows), rtol=1e-9)
    assert found["covariance"][0, 0] == pooled.variance(rows[0].tolist())


def test_the_sharing_of_the_rows_changes_no_bit():
    columns = table(6, 90)
    one = passes(columns, 1, 3, bins=4, covariance=True)[-1].params
    assert passes(columns, 7, 3, seed=1, bins=4, covariance=True)[-1].params == one


def test_a_simulation_ends_in_a_table():
    app = hansa.App(TableTrainer(["age"], quantiles=(0, 0.5, 1)))

    @app.data
    def load(client: hansa.ClientInfo) -> dict[str, Any]:
        return {"age": [[30, 40, None], [50, 60, 70]][client.index], "other": ["x"] * 3}

    result = hansa.simulate(app, clients=2, algorithm="statistics", rounds=EXACT, progress=False)
    (row,) = summary(result.model)
    assert row == {"column": "age", "count": 5, "missing": 1, "mean": 50.0, "std": 250**0.5, "min": 30.0, "q0.5": 50.0,
                   "max": 70.0, "uncertain": 0.0}  # fmt: skip
    assert "age" in str(Table(summary(result.model)))
    assert bin_edges(result.model).tolist() == [[50.0]]


def test_of_a_column_without_a_value_nothing_is_told():
    app = hansa.App(TableTrainer(["age", "dose"]))
    app.data(lambda client: {"age": [np.nan], "dose": [client.index]})
    model = hansa.simulate(app, clients=2, rounds=3, algorithm="statistics").model
    age, dose = summary(model)
    assert (age["count"], age["missing"], dose["max"]) == (0, 2, pytest.approx(1, rel=1e-3))
    assert all(np.isnan(age[name]) for name in ("mean", "std", "min", "q0.5", "max", "uncertain"))
    with pytest.raises(InputError, match="nobody has a value in the column 'age'"):
        bin_edges(model)
    assert bin_edges(model, ["dose"]).shape == (1, 3)


def test_what_is_no_table_of_numbers_is_refused():
    trainer, algorithm = TableTrainer(["age"]), statistics(MEAN)
    asked = algorithm.broadcast(algorithm.init(trainer.initial_model(np.random.default_rng(0))))
    for data, error, words in (
        ({"ages": [1]}, AppError, "no column 'age', but the columns ages"),
        ({"age": ["old"]}, AppError, "not of numbers"),
        ({"age": [np.inf]}, InputError, "finite numbers"),
        ({"age": []}, InputError, "no rows"),
        ({"age": np.array(["2026-11-29"], "M8[D]")}, AppError, r"not of numbers, but datetime64\[D\]"),
        ({"age": [1j]}, AppError, "not of numbers, but complex128"),
        ({"age": [1e30]}, InputError, "larger unit"),
        ([1, 2], AppError, "but a list"),
    ):
        with pytest.raises(error, match=words):
            algorithm.client_update(trainer, asked, task_of("c", {"c": data}))
    with pytest.raises(ConfigError, match="TableTrainer"):
        algorithm.init(hansa.Arrays({"weight": np.zeros(3)}))
    with pytest.raises(AppError, match="run it with the algorithm statistics"):
        trainer.fit(asked, task_of("c", {"c": {}}))


@pytest.mark.parametrize(
    "wrong",
    [{"columns": []}, {"columns": ["a", "a"]}, {"quantiles": (2,)}, {"bins": 3, "quantiles": (0.5,)}, {"bins": 2.5}],
)
def test_a_table_that_cannot_be_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} is"):
        TableTrainer(**{"columns": ["a"], **wrong})
