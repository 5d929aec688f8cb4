"""Whole runs with many clients in one computation, against the same with one client after another."""

import gc
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import some

from hansa.aggregators.mean import WeightedMean
from hansa.app import App
from hansa.arrays import Arrays
from hansa.errors import Reason, UpdateRejectedError
from hansa.messages import EvaluationRules, Metrics, RoundRules, Update
from hansa.run import names, plugin
from hansa.simulation import LogNormalSpeeds, SimulationResult, Stragglers, runtime, simulate
from hansa.simulation.fold import Folding
from hansa.simulation.load import load
from hansa.training.numpy import NumpyTrainer, softmax_regression

torch = pytest.importorskip("torch")

from hansa.training.stacks import TorchStacks  # noqa: E402 - torch is optional

APP = """
import os

import numpy as np
import torch

import hansa
from hansa.training.torch import TorchTrainer


def make_module():
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


app = hansa.App(
    TorchTrainer(
        make_module,
        loss=torch.nn.functional.cross_entropy,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.5),
        batch_size=8,
        epochs=2,
        representation="0",
    )
)


@app.data
def data(client):
    rng = np.random.default_rng(client.index)
    n = (5, 30, 8, 17)[client.index % 4]
    if client.index == 5:
        raise OSError("the disk is gone")
    if client.index == 6:
        n = 0
    x = rng.normal(size=(n, 6)).astype(np.float32)
    if client.index == 9:
        x[0, 0] = np.nan
    return x, x[:, : 5 if client.index == 7 else 3].argmax(1)
"""
"""Four clients cannot train: 5 has no data, 6 no examples, 7 a class too many, and 9 lacks a number."""

TOLERANCE = 1e-5
"""Of a value of the model after some rounds, absolutely and relatively."""

OPTIONS: dict[str, dict[str, Any]] = {
    "afl": {"num_clients": 5},
    "feddyn": {"num_clients": 5},
    "fedbuff": {"buffer": 3},
    "fedper": {"personal": "2.*"},
    "fedprox": {"mu": 0.5},
    "fedrep": {"personal": "2.*"},
    "qfedavg": {"learning_rate": 0.2},
    "scaffold": {"num_clients": 5},
}

OBSTACLES = {"moon": "the algorithm compares representations with those of other models"}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


def changed(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    text = APP
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "changed.py"
    path.write_text(text)
    return path


def assert_alike(mine: Arrays, theirs: Arrays) -> None:
    for name, array in theirs.items():
        np.testing.assert_allclose(mine[name], array, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def assert_same_history(mine: SimulationResult, theirs: SimulationResult) -> None:
    """The same clients counted, with the same numbers but for rounding."""
    for one, other in zip(mine.rounds, theirs.rounds, strict=True):
        assert (one.accepted, one.missing, one.num_examples) == (other.accepted, other.missing, other.num_examples)
        assert (one.failed, one.failed_evaluations) == (other.failed, other.failed_evaluations)
        assert list(one.rejected) == list(other.rejected)
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4, nan_ok=True)
        assert one.evaluation == pytest.approx(other.evaluation, rel=1e-4, nan_ok=True)
    assert_alike(mine.model, theirs.model)


OTHER_MODELS = {"statistics", "kmeans", "hist-gbdt", "heavy-hitters", "fedbn", "fednas"}
"""What has a model of its own kind, or needs BatchNorm or tensors of an architecture."""
APART = ("fedavg", "fedprox", "scaffold", "fednova", "feddyn", "mime", "fedsgd", "ditto", "fedrep", "fedbuff", "moon")
"""Whose clients do what those of no other here do."""


@pytest.mark.parametrize("algorithm", some(sorted({*names("hansa.algorithms")} - OTHER_MODELS), always=APART))
def test_every_algorithm_runs_as_with_one_client_after_another(app: Path, algorithm: str) -> None:
    def run(engine: Any) -> SimulationResult:
        options = OPTIONS.get(algorithm, {})
        return simulate(app, clients=5, rounds=3, algorithm=algorithm, algorithm_options=options, engine=engine)

    alone, together = run("inline"), run("vectorized")
    expected = ("inline", OBSTACLES[algorithm]) if algorithm in OBSTACLES else ("vectorized", "")
    assert (together.engine, together.because) == expected
    assert_same_history(together, alone)
    for name, slot in alone.state.slots.items():
        assert_alike(together.state.slots[name], slot)


CONFIGURED = """

def local(rate=0.1):
    return TorchTrainer(
        make_module,
        loss=torch.nn.functional.cross_entropy,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate),
        batch_size=8,
    )


app = hansa.App(local)
app.data(data)


@app.configure
def configure(model, task):
    return {"rate": 0.5 / task.round}
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_app_configures_holds_from_round_to_round(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "app.py"
    path.write_text(APP + CONFIGURED)
    alone = simulate(path, clients=5, rounds=3)
    together = simulate(path, clients=5, rounds=3, engine="vectorized", workers=workers)
    assert (together.engine, together.because) == ("vectorized", "")
    assert_same_history(together, alone)


def test_changes_that_are_summed_at_once_are_those_that_each_client_offers(app: Path) -> None:
    """FedProx without its pull is FedAvg, and each client's half is done and folded for itself."""
    at_once, alone = (
        simulate(app, clients=5, rounds=3, engine="vectorized", algorithm=name, algorithm_options=options)
        for name, options in (("fedavg", {}), ("fedprox", {"mu": 0.0}))
    )
    assert at_once.model_hash == alone.model_hash
    for mine, theirs in zip(without_seconds(at_once), without_seconds(alone), strict=True):
        assert mine == theirs
    assert [each.norms for each in at_once.rounds] == [pytest.approx(each.norms, rel=1e-6) for each in alone.rounds]


@dataclass(frozen=True)
class Choosy(WeightedMean):
    """Counts nobody with more than 20 examples."""

    def check(self, plan: Any, update: Update) -> None:
        super().check(plan, update)
        if update.num_examples > 20:
            raise UpdateRejectedError(Reason.OUT_OF_RANGE, "too many")


def test_an_aggregator_of_ones_own_checks_each_update(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is a mean that could sum them all at once."""
    found = plugin
    monkeypatch.setattr(
        "hansa.run.plugin", lambda group, name: Choosy if group == "hansa.aggregators" else found(group, name)
    )
    together = simulate(app, clients=5, rounds=1, engine="vectorized")
    assert set(together.rounds[0].rejected) == {"client-1"}


def test_whose_update_has_no_room_is_refused_as_one_after_another(app: Path) -> None:
    def run(engine: Any) -> SimulationResult:
        return simulate(app, clients=5, rounds=1, engine=engine, max_weight=64)

    alone, together = run("inline"), run("vectorized")
    assert together.rounds[0].rejected == alone.rounds[0].rejected != {}
    assert_same_history(together, alone)


def test_whoever_cannot_train_fails_alone_and_in_the_same_words(app: Path) -> None:
    def run(engine: Any) -> SimulationResult:
        return simulate(app, clients=14, rounds=2, engine=engine, tolerate_failures=True)

    alone, together = run("inline"), run("vectorized")
    assert_same_history(together, alone)
    assert set(together.rounds[0].failed) == {"client-5", "client-6", "client-7"}
    assert set(together.rounds[0].rejected) == {"client-9"}
    assert "the disk is gone" in together.rounds[0].failed["client-5"]
    assert not together.because


class Late(list[Update]):
    """Updates of which the second is found to be missing only when somebody looks at it."""

    def __getitem__(self, index: Any) -> Any:
        if index == 1:
            raise RuntimeError("the device lost it")
        return super().__getitem__(index)


def test_whose_update_is_lost_when_it_is_looked_at_trains_alone(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = simulate(app, clients=5, rounds=2)
    fit = TorchStacks.fit
    monkeypatch.setattr(TorchStacks, "fit", lambda *given: Late(fit(*given)))
    together = simulate(app, clients=5, rounds=2, engine="vectorized")
    assert_same_history(together, alone)


def test_a_failure_ends_the_simulation_with_its_own_traceback(app: Path) -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        simulate(app, clients=6, rounds=1, engine="vectorized")


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox"])
def test_stragglers_do_the_same_part_of_their_work(app: Path, algorithm: str) -> None:
    def run(engine: Any) -> SimulationResult:
        devices = Stragglers(0.6)
        return simulate(app, clients=5, rounds=3, algorithm=algorithm, devices=devices, engine=engine)

    alone, together = run("inline"), run("vectorized")
    assert_same_history(together, alone)


def without_seconds(result: SimulationResult) -> list[dict[str, object]]:
    """What is the same to the bit; of norms, which are for people, the last digits are not."""
    return [{**record, "seconds": 0.0, "norms": len(record["norms"])} for record in result.history]


@pytest.mark.parametrize("algorithm", ["fedsgd", "scaffold"])
def test_the_bits_do_not_depend_on_who_is_trained_with_whom(app: Path, algorithm: str) -> None:
    """In one process or in several, all at once or three by three, with failures and devices that move the rounds."""

    def run(workers: int) -> SimulationResult:
        return simulate(
            app,
            clients=14,
            rounds=3,
            algorithm=algorithm,
            algorithm_options=OPTIONS.get(algorithm, {}) | ({"num_clients": 14} if algorithm == "scaffold" else {}),
            rules=RoundRules(selection="count", count=8, deadline=40.0, enough=6),
            evaluation=EvaluationRules(every=0),
            devices=LogNormalSpeeds(10.0, sigma=1.0, dropout=0.1),
            engine="vectorized",
            workers=workers,
            tolerate_failures=True,
        )

    whole = run(1)
    assert any(record.failed for record in whole.rounds)
    assert without_seconds(run(2)) == without_seconds(whole)


def test_the_bits_do_not_depend_on_how_many_fit_into_memory(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = simulate(app, clients=5, rounds=2, engine="vectorized")
    monkeypatch.setattr("hansa.training.stacks._STACK_BYTES", 2 * 8 * 4 * 83 + 4000)
    parts = simulate(app, clients=5, rounds=2, engine="vectorized")
    assert parts.model_hash == whole.model_hash


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox"])  # the updates at once, and one by one
def test_the_bits_do_not_depend_on_how_many_threads_train(
    app: Path, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hansa.training.stacks._SHARE_BYTES", 1)
    fit, trained_by = TorchStacks.fit, set[str]()

    def watched(*given: Any) -> Any:
        trained_by.add(threading.current_thread().name.split("_")[0])
        return fit(*given)

    monkeypatch.setattr(TorchStacks, "fit", watched)
    runs = {}
    for threads, names_seen in ((1, {"MainThread"}), (3, {"MainThread", "hansa-train"})):
        monkeypatch.setattr("hansa.simulation.engines.cores", lambda threads=threads: threads)
        runs[threads] = simulate(app, clients=5, rounds=3, engine="vectorized", algorithm=algorithm)
        assert trained_by == names_seen
    assert without_seconds(runs[3]) == without_seconds(runs[1])
    monkeypatch.setattr("hansa.training.stacks._SHARE_BYTES", 5 * 4 * 83)  # parameters of five clients
    trained_by.clear()
    alone = simulate(app, clients=5, rounds=3, engine="vectorized", algorithm=algorithm)
    assert alone.model_hash == runs[1].model_hash
    assert trained_by == {"MainThread"}


@pytest.mark.parametrize("algorithm", ["scaffold", "fednova", "fedprox"])
def test_updates_are_summed_at_once_to_the_bits_of_one_after_another(
    app: Path, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what clients keep, and those who fail or are refused."""

    def run(clients: int) -> SimulationResult:
        options = {"num_clients": clients} if algorithm == "scaffold" else {}
        return simulate(
            app, clients=clients, rounds=3, algorithm=algorithm, algorithm_options=options, engine="vectorized",
            workers=1, tolerate_failures=True, evaluation=EvaluationRules(every=0),
        )  # fmt: skip

    alone: list[str] = []
    accumulate = WeightedMean.accumulate

    def watched(self: WeightedMean, plan: Any, partial: Any, update: Update, contribution: Any) -> Any:
        alone.append(contribution.client)
        return accumulate(self, plan, partial, update, contribution)

    monkeypatch.setattr(WeightedMean, "accumulate", watched)
    at_once, refused = run(8), run(12)
    assert any(record.failed for record in at_once.rounds)
    assert all(record.rejected for record in refused.rounds)
    assert len(alone) == 3 * 9  # all of a round in which one is refused
    monkeypatch.setattr(Folding, "takes_updates_as_they_are", False)
    assert without_seconds(run(8)) == without_seconds(at_once)
    assert without_seconds(run(12)) == without_seconds(refused)


def test_who_fails_in_a_thread_fails_alone(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Client 5 has no data, 6 no examples, 9 targets below 0."""
    monkeypatch.setattr("hansa.training.stacks._SHARE_BYTES", 1)
    failed = []
    for threads in (1, 3):
        monkeypatch.setattr("hansa.simulation.engines.cores", lambda threads=threads: threads)
        result = simulate(app, clients=12, rounds=1, engine="vectorized", tolerate_failures=True)
        failed.append((result.model_hash, result.rounds[0].failed))
    assert failed[0] == failed[1]
    assert failed[0][1]


def test_what_was_there_before_a_run_is_left_to_the_next_search_for_garbage(
    app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_at_rest_already", threading.Event())
    gc.unfreeze()  # as the tests have found it
    try:
        seen: list[int] = []
        simulate(app, clients=2, rounds=1, engine="vectorized", on_round=lambda _: seen.append(gc.get_freeze_count()))
        assert seen[0] > 0
        assert gc.get_freeze_count() == 0
        with runtime._old_objects_at_rest():  # of a simulation beside this one
            simulate(app, clients=2, rounds=1, engine="vectorized")
            assert gc.get_freeze_count() > 0
        assert not runtime._at_rest_already.is_set()
    finally:
        gc.freeze()


def test_what_somebody_else_has_put_to_rest_stays_there(app: Path) -> None:
    assert gc.get_freeze_count() > 0
    simulate(app, clients=2, rounds=1, engine="vectorized")
    assert gc.get_freeze_count() > 0
    assert runtime._at_rest_already.is_set()


def test_a_client_keeps_its_memory_where_it_is_trained_one_after_another(app: Path) -> None:
    """SCAFFOLD in worker processes: control variates travel there and back."""
    options = {"num_clients": 5}
    alone = simulate(app, clients=5, rounds=3, algorithm="scaffold", algorithm_options=options)
    together = simulate(
        app, clients=5, rounds=3, algorithm="scaffold", algorithm_options=options, engine="vectorized", workers=2
    )
    assert_same_history(together, alone)


# ── one after another, and why ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("workers", [1, 2])
def test_a_module_that_cannot_be_stacked_is_trained_as_inline_to_the_bit(tmp_path: Path, workers: int) -> None:
    path = changed(tmp_path, ("torch.nn.ReLU()", "torch.nn.ReLU(), torch.nn.Dropout(0.3)"))
    alone = simulate(path, clients=4, rounds=2)
    together = simulate(path, clients=4, rounds=2, engine="vectorized", workers=workers)
    assert together.model_hash == alone.model_hash
    assert together.engine == ("inline" if workers == 1 else "processes")
    assert "draws random numbers" in together.because


def test_an_app_with_a_train_function_is_trained_as_inline_to_the_bit(write_app: Callable[[str], Path]) -> None:
    path = write_app("""
import numpy as np
import hansa

app = hansa.App()
app.model(lambda rng: {"w": np.zeros(2)})
app.train(lambda model, task: hansa.Update({"w": model["w"] + task.rng.normal(size=2)}, num_examples=1))
""")
    together = simulate(path, clients=4, rounds=2, engine="vectorized")
    assert together.model_hash == simulate(path, clients=4, rounds=2).model_hash
    assert together.because == "the app has a train function of its own"


def test_a_trainer_without_stacks_is_named() -> None:
    app = App(NumpyTrainer(softmax_regression(2, 2), learning_rate=0.1))
    app.data(lambda _: (np.eye(2, dtype=np.float32), np.arange(2)))
    together = simulate(app, clients=3, rounds=1, engine="vectorized")
    assert together.because == "NumpyTrainer trains one client at a time"


def test_an_evaluation_of_the_apps_own_is_used(app: Path) -> None:
    loaded = load(app)
    loaded.evaluate(lambda _, task: Metrics({"own": 1.0}, len(task.data[0])))
    result = simulate(loaded, clients=4, rounds=1, engine="vectorized")
    assert result.rounds[0].evaluation == {"own": 1.0}
    assert not result.because


# ── the engine that a trial chooses ──────────────────────────────────────────────────────────────────────────────────


def test_the_engine_of_a_trial_gives_what_that_engine_gives(app: Path) -> None:
    chosen = simulate(app, clients=5, rounds=2, engine="auto", workers=1)
    assert chosen.engine in {"inline", "vectorized"}
    assert "ms for a client together with others" in chosen.because
    named = simulate(app, clients=5, rounds=2, engine=chosen.engine)  # type: ignore[arg-type]  # one of two names
    assert chosen.model_hash == named.model_hash


def test_a_trial_that_fails_leaves_the_failure_to_the_run(tmp_path: Path) -> None:
    path = changed(tmp_path, ("if client.index == 5", "if client.index == 0"))
    with pytest.raises(OSError, match="the disk is gone"):
        simulate(path, clients=3, rounds=1, engine="auto", workers=1)
    result = simulate(path, clients=3, rounds=1, engine="auto", workers=1, tolerate_failures=True)
    assert result.engine == "inline"
    assert result.because.startswith("training cannot be tried: OSError: the disk is gone")


def test_a_profile_adds_up_to_the_time_of_the_rounds(app: Path) -> None:
    result = simulate(app, clients=5, rounds=2, engine="vectorized")
    assert sum(result.profile.values()) >= sum(record.seconds for record in result.rounds)
    assert all(result.profile[part] > 0 for part in ("data", "training", "folding", "evaluation", "overhead"))
    assert result.profile["workers"] == 0
