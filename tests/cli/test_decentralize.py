from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commandline import TINY, json_lines
from typer.testing import Result

from hansa.cli.decentralize import parse_topology
from hansa.distributed import dsgd, mean_model, ring, run
from hansa.errors import ConfigError
from hansa.simulation.load import load
from hansa.wire import codec

CENTRAL = """

@app.central_evaluate
def judge(model, rng):
    return hansa.Metrics({"sum": float(model["w"].sum())}, num_examples=1)
"""


def test_it_says_how_the_workers_mix_and_what_their_models_are_worth(
    hansa: Callable[..., Result], write_app: Callable[[str], Path]
) -> None:
    done = hansa("decentralize", write_app(TINY + CENTRAL), "--clients", 3, "--rounds", 2)
    assert done.exit_code == 0, done.output
    assert "dsgd on ring(3), 3 workers, 2 rounds" in done.stdout
    # worker i adds i + 1 to each of three values in each round: the mean is 4, the sum of its values 12
    assert "sum 12.0000 of the mean model, 9.0000 to 15.0000 of the workers' own" in done.stdout
    assert "12 messages" in done.stdout


def test_the_saved_mean_model_is_that_of_the_python_api(
    hansa: Callable[..., Result], tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mean.safetensors"
    (told,) = json_lines(
        hansa("decentralize", tiny, "--clients", 3, "--rounds", 2, "--seed", 4, "--json", "--output", file).stdout
    )
    outcome = run(dsgd(load(tiny), rounds=2), ring(3), seed=4)
    expected = mean_model([result.model for result in outcome.results])
    assert codec.digest(codec.load(file)) == codec.digest(expected) == told["model_hash"]
    assert (told["workers"], told["messages"], told["second_eigenvalue"]) == (3, 12, pytest.approx(0, abs=1e-12))


def test_push_sum_goes_where_directions_are_and_dsgd_says_so(hansa: Callable[..., Result], tiny: Path) -> None:
    options = ("--clients", 4, "--rounds", 1, "--topology", "directed-ring")
    assert hansa("decentralize", tiny, *options, "--algorithm", "pushsum").exit_code == 0
    assert hansa("decentralize", tiny, *options).exit_code == 0  # equal degrees: uniform weights are doubly stochastic


TRAINED = """
import numpy as np

import hansa
from hansa.training.numpy import NumpyTrainer, softmax_regression

app = hansa.App(NumpyTrainer(softmax_regression(2, 2), learning_rate=0.1, batch_size=2))


@app.data
def load(client, *, alpha=1.0):
    return np.ones((4, 2), np.float32), np.zeros(4, np.int64)
"""
SETTINGS = """
import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng, *, start=0.0):
    return {"w": np.full(3, start, np.float32)}


@app.data
def load(client, *, share=1.0):
    return np.float32(share)


@app.train
def train(model, task, *, step=1.0):
    return hansa.Update({"w": model["w"] + task.data * np.float32(step)}, num_examples=10)


@app.central_evaluate
def judge(model, rng, *, scale=1.0):
    return hansa.Metrics({"first": scale * float(model["w"][0])}, num_examples=1)
"""


@pytest.mark.parametrize("algorithm", ["dsgd", "pushsum"])
def test_settings_reach_all_functions_of_the_app(
    hansa: Callable[..., Result], write_app: Callable[[str], Path], algorithm: str
) -> None:
    given = ("--set", "start=5.0", "--set", "share=2.0", "--set", "step=3.0", "--set", "scale=10.0")
    options = ("--clients", 3, "--rounds", 2, "--algorithm", algorithm, "--json")
    app = write_app(SETTINGS)
    (told,) = json_lines(hansa("decentralize", app, *options, *given).stdout)
    assert told["metrics"] == {"first": pytest.approx(10 * (5 + 2 * 2 * 3))}
    (told,) = json_lines(hansa("decentralize", app, *options).stdout)
    assert told["metrics"] == {"first": pytest.approx(2.0)}


def test_a_setting_that_nobody_reads_is_refused(hansa: Callable[..., Result], write_app: Callable[[str], Path]) -> None:
    app = write_app(TRAINED)
    refused = hansa("decentralize", app, "--clients", 3, "--rounds", 1, "--set", "stepp=3")
    assert "the app has no setting 'stepp', and nothing else of it reads --set or config" in refused.output


def test_the_old_name_of_clients_is_told_with_the_new_one(
    hansa: Callable[..., Result], write_app: Callable[[str], Path]
) -> None:
    refused = hansa("decentralize", write_app(TRAINED), "--workers", 3)
    assert "--workers is called --clients here, as in `hansa simulate`: write --clients 3" in refused.output


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("torus:3:4", "torus(3, 4)"),
        ("random-regular:4", "random_regular(12, 4)"),
        ("erdos-renyi:0.5", "erdos_renyi(12, 0.5)"),
        ("watts-strogatz:4:0.2", "watts_strogatz(12, 4, 0.2)"),
        ("exponential", "exponential(12)"),
    ],
)
def test_a_topology_is_named_with_its_numbers(text: str, name: str) -> None:
    assert parse_topology(text, 12, np.random.default_rng(0)).name == name


@pytest.mark.parametrize("text", ["cube", "ring:3", "torus", "random-regular:many", "torus:2:3"])
def test_a_topology_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no topology|write --clients 6"):
        parse_topology(text, 12, np.random.default_rng(0))
