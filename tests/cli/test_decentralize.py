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
    done = hansa("decentralize", write_app(TINY + CENTRAL), "--workers", 3, "--rounds", 2)
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
        hansa("decentralize", tiny, "--workers", 3, "--rounds", 2, "--seed", 4, "--json", "--output", file).stdout
    )
    outcome = run(dsgd(load(tiny), rounds=2), ring(3), seed=4)
    expected = mean_model([result.model for result in outcome.results])
    assert codec.digest(codec.load(file)) == codec.digest(expected) == told["model_hash"]
    assert (told["workers"], told["messages"], told["second_eigenvalue"]) == (3, 12, pytest.approx(0, abs=1e-12))


def test_push_sum_goes_where_directions_are_and_dsgd_says_so(hansa: Callable[..., Result], tiny: Path) -> None:
    options = ("--workers", 4, "--rounds", 1, "--topology", "directed-ring")
    assert hansa("decentralize", tiny, *options, "--algorithm", "pushsum").exit_code == 0
    assert hansa("decentralize", tiny, *options).exit_code == 0  # equal degrees: uniform weights are doubly stochastic


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
    with pytest.raises(ConfigError, match=r"there is no topology|must be as many"):
        parse_topology(text, 12, np.random.default_rng(0))
