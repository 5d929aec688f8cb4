"""Whole runs of a JAX app: with many clients in one computation, and on a network."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import slow

from hansa.app import App
from hansa.messages import RoundRules, RunSpec
from hansa.network import ways
from hansa.simulation import SimulationResult, simulate
from hansa.simulation.load import load
from hansa.simulation.parity import WAYS, Way, check_parity, differences

jax = pytest.importorskip("jax")

APP = """
import jax
import jax.numpy as jnp
import numpy as np
import optax

import hansa
from hansa.training.jax import JaxTrainer


def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": {"kernel": jax.random.normal(first, (6, 8)) / 3, "bias": jnp.zeros(8)},
        "out": {"kernel": jax.random.normal(second, (8, 3)) / 3, "bias": jnp.zeros(3)},
    }


def apply(params, x):
    hidden = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


app = hansa.App(JaxTrainer(init, apply, loss, optax.sgd(0.1, momentum=0.5), batch_size=8, epochs=2))


@app.data
def data(client):
    rng = np.random.default_rng(client.index)
    n = (5, 30, 8, 17)[client.index % 4]
    if client.index == 5:
        raise OSError("the disk is gone")
    x = rng.normal(size=(n, 6)).astype(np.float32)
    if client.index == 6:
        x = x[:, :4]
    if client.index == 9:
        x[0, 0] = np.nan
    return x, x[:, :3].argmax(1)
"""
"""Three clients cannot train: 5 has no data, 6 features too few, and 9 lacks a number."""

TOLERANCE = 1e-5
"""Of a value of the model after some rounds, absolutely and relatively."""

OPTIONS: dict[str, dict[str, Any]] = {"scaffold": {"num_clients": 5}, "fedprox": {"mu": 0.5}}


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What one process has compiled, the others find in JAX's own cache on disk, as a user would have it."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    settings = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 0}
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("jax") / "app.py"
    made.write_text(APP)
    return made


@cache
def shared(path: Path) -> App:
    """Its programs are compiled once for all tests."""
    return load(path)


def assert_same_history(mine: SimulationResult, theirs: SimulationResult) -> None:
    """The same clients counted, with the same numbers but for rounding."""
    for one, other in zip(mine.rounds, theirs.rounds, strict=True):
        assert (one.accepted, one.num_examples, one.failed) == (other.accepted, other.num_examples, other.failed)
        assert list(one.rejected) == list(other.rejected)
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4, nan_ok=True)
        assert one.evaluation == pytest.approx(other.evaluation, rel=1e-4, nan_ok=True)
    for name, array in theirs.model.items():
        np.testing.assert_allclose(mine.model[name], array, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("algorithm", [slow("fedprox"), slow("scaffold"), "mime", "fedsgd"])
def test_an_algorithm_runs_as_with_one_client_after_another(path: Path, algorithm: str) -> None:
    def run(engine: Any) -> SimulationResult:
        options = OPTIONS.get(algorithm, {})
        app = shared(path)
        return simulate(app, clients=5, rounds=3, algorithm=algorithm, algorithm_options=options, engine=engine)

    alone, together = run("inline"), run("vectorized")
    assert (together.engine, together.because) == ("vectorized", "")
    assert_same_history(together, alone)
    for name, slot in alone.state.slots.items():
        for tensor, array in slot.items():
            np.testing.assert_allclose(together.state.slots[name][tensor], array, rtol=TOLERANCE, atol=TOLERANCE)


def test_whoever_cannot_train_fails_alone_and_in_the_same_words(path: Path) -> None:
    def run(engine: Any) -> SimulationResult:
        return simulate(shared(path), clients=14, rounds=1, engine=engine, tolerate_failures=True)

    alone, together = run("inline"), run("vectorized")
    assert_same_history(together, alone)
    assert set(together.rounds[0].failed) == {"client-5", "client-6"}
    assert set(together.rounds[0].rejected) == {"client-9"}


def test_the_bits_do_not_depend_on_who_is_trained_with_whom(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process or in two, all at once or a few at a time."""

    def run(workers: int) -> str:
        return simulate(
            path if workers > 1 else shared(path),
            clients=5,
            rounds=2,
            algorithm="scaffold",
            algorithm_options=OPTIONS["scaffold"],
            rules=RoundRules(selection="count", count=4),
            engine="vectorized",
            workers=workers,
        ).model_hash

    whole = run(1)
    assert run(2) == whole
    monkeypatch.setattr("hansa.training.jax_stacks._MEMORY", 20_000)
    assert run(1) == whole


def test_a_network_has_the_bits_of_a_simulation(path: Path) -> None:
    networked = (*WAYS[:2], Way("network: one combiner", ways.one_combiner))
    assert differences(check_parity(path, RunSpec(rounds=2), 2, networked)) == {}
