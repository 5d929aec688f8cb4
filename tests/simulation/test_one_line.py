"""hansa.simulate("scaffold", model=…, data=…), and what its result shows."""

import csv
import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import hansa
from hansa.data import Examples, Split
from hansa.errors import ConfigError, InputError
from hansa.messages import EvaluationRules
from hansa.simulation import SimulationResult, Table, simulate
from hansa.training.numpy import logistic_regression, softmax_regression

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 4)).astype(np.float32), RNG.integers(0, 3, 90)
DATA = Split(Examples(X, Y), Examples(X[:20], Y[:20]))
MODEL = softmax_regression(4, 3)


@pytest.fixture(scope="module")
def result() -> SimulationResult:
    evaluation = EvaluationRules(every=2)
    return simulate("scaffold", model=MODEL, data=DATA, clients=6, rounds=5, evaluation=evaluation, seed=1)


# ── one line ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_line_is_the_app_of_the_model_and_the_data() -> None:
    app = hansa.App.of(MODEL, DATA, partition="dirichlet:0.5", learning_rate=0.2)
    long = simulate(app, clients=6, rounds=3, algorithm="fedavgm", seed=4)
    short = simulate(
        "fedavgm", model=MODEL, data=DATA, partition="dirichlet:0.5", learning_rate=0.2, clients=6, rounds=3, seed=4
    )
    assert long.model_hash == short.model_hash


def test_the_shared_test_is_measured_centrally_and_clients_do_not_evaluate() -> None:
    record = simulate("fedavg", model=MODEL, data=DATA, clients=6, rounds=1).rounds[0]
    assert set(record.central) == {"loss", "accuracy"}
    assert record.evaluation == {}


def test_clients_with_data_of_their_own_need_no_number() -> None:
    own = [(X[k::3], Y[k::3]) for k in range(3)]
    record = simulate("fedavg", model=MODEL, data=own, rounds=1).rounds[0]
    assert len(record.accepted) == 3
    assert record.evaluation


def test_an_algorithm_that_counts_clients_is_told_how_many(result: SimulationResult) -> None:
    assert result.spec.algorithm_options == {"num_clients": 6}


@pytest.mark.parametrize(
    ("arguments", "keywords", "said"),
    [
        (["scaffold"], {}, "scaffold is an algorithm: give `model` and `data` too"),
        (["fedavg"], {"model": MODEL}, "model is given alone"),
        (["fedavg"], {"model": MODEL, "data": DATA, "algorithm": "fedprox"}, "the first argument names the algorithm"),
        ([hansa.App.of(MODEL, DATA)], {"model": MODEL, "data": DATA}, "the first argument names the algorithm"),
        ([hansa.App.of(MODEL, DATA)], {"epochs": 3}, "epochs belongs to `model` and `data`"),
        (["fedavg"], {"model": MODEL, "data": DATA}, "clients is not given"),
    ],
)
def test_two_ways_at_once_are_refused(arguments: list[object], keywords: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        simulate(*arguments, **keywords)  # type: ignore[arg-type]


# ── what the result shows ────────────────────────────────────────────────────────────────────────────────────────────


def test_curves_have_a_value_per_round_and_gaps_where_nothing_was_measured(result: SimulationResult) -> None:
    curves = result.curves
    assert set(curves) == {
        "round",
        "train.loss",
        "clients.loss",
        "clients.accuracy",
        "central.loss",
        "central.accuracy",
    }
    assert curves["round"].tolist() == [1, 2, 3, 4, 5]
    assert np.isfinite(curves["train.loss"]).all()
    assert np.isnan(curves["central.loss"]).tolist() == [True, False, True, False, False]  # every second, and the last
    assert curves["central.loss"][4] == result.rounds[4].central["loss"]


def test_the_table_is_read_back_from_csv_to_the_last_bit(result: SimulationResult, tmp_path: Path) -> None:
    table = result.table()
    table.to_csv(tmp_path / "rounds.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "rounds.csv").read_text())))
    assert [float(row["train.loss"]) for row in rows] == result.curves["train.loss"].tolist()
    assert rows[0]["central.loss"] == ""
    assert rows[-1]["model_hash"] == result.model_hash
    assert [row["accepted"] for row in rows] == ["6"] * 5


def test_a_table_is_a_sequence_of_rows_with_all_columns() -> None:
    table = Table([{"a": 1}, {"b": 0.25}])
    assert list(table) == [{"a": 1, "b": None}, {"a": None, "b": 0.25}]
    assert str(table).splitlines() == ["a       b", "1       —", "—  0.2500"]
    assert table[:1].csv() == "a,b\n1,\n"


def test_a_notebook_shows_the_last_rounds_and_escapes_names(result: SimulationResult) -> None:
    assert str(result).startswith(f"{result.spec.name}: {result.spec.algorithm}, {len(result.rounds)} rounds, seed ")
    assert str(result).endswith(f"\nmodel {result.model_hash}")
    shown = ET.fromstring(f"<div>{result._repr_html_().replace('<br>', '<br/>')}</div>")  # noqa: S314 - our own
    assert len(shown.findall(".//tbody/tr")) == 5
    assert result.model_hash in "".join(shown.itertext())
    assert "<b>" not in Table([{"<b>": "<i>"}])._repr_html_()


def test_a_plot_is_a_figure_with_a_panel_per_kind(result: SimulationResult, tmp_path: Path) -> None:
    figure = result.plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["accuracy", "loss"]
    line = figure.axes[1].lines[0]
    assert (line.get_label(), len(line.get_xdata())) == ("train", 5)
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]  # what a notebook asks for
    result.plot("central.accuracy").savefig(tmp_path / "one.svg")
    assert ET.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")  # noqa: S314 - our own
    with pytest.raises(InputError, match=r"there is no metric accuracy; there is: train\.loss"):
        result.plot("accuracy")


# ── progress ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bar_shows_rounds_and_numbers_where_it_is_wanted(capfd: pytest.CaptureFixture[str]) -> None:
    simulate("fedavg", model=MODEL, data=DATA, clients=3, rounds=2, name="bar", progress=True)
    told = capfd.readouterr()
    assert "bar: fedavg" in told.err
    assert "2/2" in told.err
    assert told.out == ""


def test_nothing_is_shown_where_nobody_watches(capfd: pytest.CaptureFixture[str]) -> None:
    simulate("fedavg", model=MODEL, data=DATA, clients=3, rounds=2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"learning_rte": 0.1}, "simulate takes no 'learning_rte': do you mean learning_rate?"),
        ({"fraction": 0.5}, r"it is one of the rules, as in rules=hansa.RoundRules\(fraction=…\)"),
        ({"mu": 0.5}, "An option of the algorithm goes into algorithm_options, a setting of the app into config"),
    ],
)
def test_a_keyword_that_is_none_says_what_was_meant(keywords: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"clients": 2, "rounds": 1} | keywords
    with pytest.raises(ConfigError, match=said):
        hansa.simulate("fedavg", model=softmax_regression(2, 2), data=(np.zeros((4, 2)), np.zeros(4, int)), **given)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.zeros((4, 2)), np.zeros(3, int), "data has 4 inputs and 3 targets"),
        (np.zeros((4, 3)), np.zeros(4, int), r"x has the shape \(2, 3\); this model takes \(n, 2\)"),
        (np.zeros((4, 2)), np.zeros(4), "y is float64; this model takes class numbers"),
        (np.zeros((4, 2)), np.full(4, -1), "y has classes from -1 to -1; this model has 2, numbered from 0"),
        (np.zeros((4, 2)), np.full(4, 2), "y has classes from 2 to 2; this model has 2, numbered from 0"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused_in_words(x: Any, y: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        hansa.simulate("fedavg", model=softmax_regression(2, 2), data=(x, y), clients=2, rounds=1)
    with pytest.raises(InputError, match="y has targets from -1 to 1; this model has the labels 0 and 1"):
        hansa.simulate("fedavg", model=logistic_regression(2), data=(np.zeros((2, 2)), [-1, 1]), clients=1, rounds=1)
