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
from hansa.simulation import LogNormalSpeeds, SimulationResult, Table, simulate
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
    asked = EvaluationRules()  # they do where they are asked to, also in the words of the default
    both = simulate("fedavg", model=MODEL, data=DATA, clients=6, rounds=1, evaluation=asked).rounds[0]
    assert both.central == record.central
    assert set(both.evaluation) == {"loss", "accuracy"}


def test_clients_keep_a_share_of_their_part_for_testing_where_they_are_asked_to() -> None:
    given: dict[str, Any] = {"model": MODEL, "data": DATA, "clients": 6, "rounds": 1, "evaluation": EvaluationRules()}
    whole = simulate("fedavg", **given).rounds[0]
    record = simulate("fedavg", **given, test_fraction=0.2).rounds[0]
    assert set(whole.examples.values()) == {15}
    assert set(record.examples.values()) == {12}
    data = hansa.App.of(MODEL, DATA, test_fraction=0.2).load_data(hansa.ClientInfo("client-1", 1, 6))
    assert (len(data.train.y), len(data.test.y)) == (12, 3)
    with pytest.raises(InputError, match="the fraction for testing is 1; it must be at least 0 and below 1"):
        simulate("fedavg", **given, test_fraction=1)


def test_what_the_app_measures_centrally_too_is_added() -> None:
    app = hansa.App.of(MODEL, DATA)
    app.central_evaluate(lambda model, _: hansa.Metrics({"norm": float(abs(model["weight"]).sum()), "loss": -1.0}, 1))
    central = simulate(app, clients=3, rounds=1).rounds[0].central
    assert set(central) == {"accuracy", "loss", "norm"}
    assert central["loss"] == -1


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


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"clients": 2.5}, "clients is 2.5; it must be a whole number, at least 1"),
        ({"clients": True}, "clients is True"),
        ({"workers": "2"}, "workers is '2'; it must be a whole number, at least 1"),
        ({"engine": ["inline"]}, "engine is \\['inline'\\]; there is: inline, processes"),
        ({"devices": 3}, "devices is 3; it must be a name, for example dropouts:0.1, or have `behave`"),
        ({"devices": "slow"}, "devices slow: there is dropouts:RATE, stragglers:SHARE, lognormal:SIGMA, trace:FILE"),
        ({"attack": 0.2}, "attack is 0.2; write for example sign-flip:0.2"),
        ({"tracker": 3}, "tracker is 3; it must be a name, for example csv:out.csv, or have `begin`"),
        ({"labels": "eu"}, "labels is 'eu'; it must be a mapping of names to labels"),
        ({"on_round": "print"}, "on_round is 'print'; it must be a function of a round's record"),
        ({"stop": 3}, "stop is 3; it must be a function"),
        ({"spec": {"rounds": 3}}, "spec is {'rounds': 3}; it must be a hansa.RunSpec"),
        (
            {"initial_model": "model.safetensors"},
            "initial_model: the model is a str, which cannot be read as named arrays",
        ),
        (
            {"initial_model": {"weight": np.zeros((4, 2))}},
            r"shape \(4, 2\) 'weight', and the app's model has one of \(4, 3",
        ),
        ({"initial_model": {"weight": np.zeros((4, 3))}}, r"no tensor 'bias', and the app's model has one of \(3,\)"),
        ({"aggregator": ["median", "krum"]}, r"aggregator is \['median', 'krum'\]; it must be one name"),
        ({"name": 7}, "name is 7; it must be one name, as text"),
        ({"rules": {"count": 3}}, r"rules is {'count': 3}; it must be made by hansa.RoundRules\(…\)"),
        ({"evaluation": False}, r"evaluation is False; it must be made by hansa.EvaluationRules\(…\)"),
        ({"config": "alpha=1"}, "config is 'alpha=1'; it must be a mapping of names to values"),
        ({"algorithm_options": None}, "algorithm_options is None; it must be a mapping"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; it must be a number above 0, and finite"),
        ({"momentum": 1}, "momentum is 1; it must be a number of at least 0 and below 1"),
        ({"weight_decay": float("inf")}, "weight_decay is inf; it must be a number of at least 0, and finite"),
        ({"partition": 0.5}, "partition is 0.5; it must be a text, for example dirichlet:0.5"),
        ({"partition_seed": None}, "the seed of the partition is None; it must be a whole number, at least 0"),
        ({"partition_seed": [1]}, r"the seed of the partition is \[1\]"),
        ({"lr": 0.1}, "simulate takes no 'lr': do you mean learning_rate"),
        ({"data": (1, 2)}, "data is a pair of something without a length"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_name(keywords: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, InputError), match=said):
        simulate("fedavg", **{"model": MODEL, "data": DATA, "clients": 3, "rounds": 1} | keywords)


@pytest.mark.parametrize("app", [3, None, MODEL])
def test_what_is_no_app_is_refused(app: Any) -> None:
    with pytest.raises(ConfigError, match="it must be an App, the path of one, or with `model` a name"):
        simulate(app, clients=3)


def test_numbers_of_numpy_are_numbers() -> None:
    of_numpy = simulate(
        "fedprox",
        model=MODEL,
        data=DATA,
        clients=np.int64(3),  # type: ignore[arg-type]
        rounds=np.int32(2),  # type: ignore[typeddict-item]
        seed=np.uint8(4),  # type: ignore[typeddict-item]
        algorithm_options={"mu": np.float64(0.5)},
    )
    plain = simulate("fedprox", model=MODEL, data=DATA, clients=3, rounds=2, seed=4, algorithm_options={"mu": 0.5})
    assert (of_numpy.spec, of_numpy.model_hash) == (plain.spec, plain.model_hash)
    assert type(of_numpy.spec.rounds) is int


def test_devices_have_names_here_too() -> None:
    named, made = (
        simulate("fedavg", model=MODEL, data=DATA, clients=3, rounds=2, devices=devices).rounds
        for devices in ("lognormal:1.0", LogNormalSpeeds(sigma=1.0))
    )
    assert [each.virtual_seconds for each in named] == [each.virtual_seconds for each in made]


def test_an_app_shares_its_data_anew_among_another_number_of_clients() -> None:
    app = hansa.App.of(MODEL, DATA)
    for clients in (3, 9, 3):
        again = simulate(app, clients=clients, rounds=1)
        assert sum(again.rounds[0].examples.values()) == len(Y)
        assert again.model_hash == simulate(hansa.App.of(MODEL, DATA), clients=clients, rounds=1).model_hash


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


def test_a_metric_that_nobody_measured_is_told_with_those_there_are(result: SimulationResult) -> None:
    with pytest.raises(KeyError, match=r"there is no metric 'accuracy'; there is: round, train\.loss, "):
        result.curves["accuracy"]
    assert repr(result) == str(result)  # not every number of every round


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
        (np.zeros((4, 2)), np.zeros((4, 1), int), r"y has the shape \(2, 1\); this model takes \(n,\)"),
        (np.zeros((4, 2)), np.full(4, -1), "y has classes from -1 to -1; this model has 2, numbered from 0"),
        (np.zeros((4, 2)), np.full(4, 2), "y has classes from 2 to 2; this model has 2, numbered from 0"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused_in_words(x: Any, y: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        hansa.simulate("fedavg", model=softmax_regression(2, 2), data=(x, y), clients=2, rounds=1)
    with pytest.raises(InputError, match="y has targets from -1 to 1; this model has the labels 0 and 1"):
        hansa.simulate("fedavg", model=logistic_regression(2), data=(np.zeros((2, 2)), [-1, 1]), clients=1, rounds=1)
