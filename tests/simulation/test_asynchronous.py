"""Asynchronous runs against FedAvg, against brute force, and on every engine."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import State
from hansa.arrays import Arrays
from hansa.data import digits
from hansa.errors import ConfigError, QuorumNotMetError
from hansa.messages import Contribution, Kind, RoundRules, RunSpec, Task
from hansa.run import Run, resolve
from hansa.simulation import (
    Behaviour,
    Dropouts,
    LogNormalSpeeds,
    RoundRecord,
    SimulationResult,
    Stragglers,
    simulate,
)
from hansa.simulation.clients import VirtualClients
from hansa.simulation.devices import Invitation, RandomFor
from hansa.simulation.parity import check_parity
from hansa.training.numpy import softmax_regression
from hansa.wire import codec

SIX_AT_ONCE = RoundRules(selection="count", count=6)
UNLIKE = LogNormalSpeeds(sigma=1.0, jitter=0.5, dropout=0.05)
RATE = np.float32(0.25)


def target(client: str) -> npt.NDArray[np.float32]:
    return np.random.default_rng(int(client.removeprefix("client-"))).normal(size=3).astype(np.float32)


def descent() -> hansa.App:
    """Clients that step towards points of their own, by steps that are random in each round."""
    app = hansa.App()

    @app.model
    def initial_model(_rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
        return {"w": np.zeros(3, np.float32)}

    @app.train
    def train(model: Arrays, task: Task) -> hansa.Update:
        rate = RATE * np.float32(task.rng.uniform(0.5, 1.0))
        return hansa.Update(
            {"w": model["w"] + rate * (target(task.client.name) - model["w"])}, num_examples=1 + task.client.index % 3
        )

    return app


@dataclass(frozen=True)
class Speeds:
    """client-k takes seconds[k], always."""

    seconds: tuple[float, ...]

    def behave(self, clients: Sequence[str], invitation: Invitation, random_for: RandomFor) -> Sequence[Behaviour]:
        del invitation, random_for
        return [Behaviour(self.seconds[int(client.removeprefix("client-"))]) for client in clients]


def run_of(result: SimulationResult) -> Run:
    return resolve(result.spec)


def unlike_clocks(record: RoundRecord) -> RoundRecord:
    return replace(record, seconds=0.0)


# ── laws ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rules", [RoundRules(), RoundRules(selection="count", count=5)], ids=["all", "count"])
@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_where_all_take_equally_long_and_the_buffer_is_the_cohort_it_is_fedavg_to_the_bit(
    app: Path, rules: RoundRules, seconds: float
) -> None:
    devices, size = Dropouts(0.0, seconds), rules.count or 8
    same = {"clients": 8, "rounds": 4, "rules": rules, "devices": devices}
    sync: Any = simulate(app, **same)  # type: ignore[arg-type]  # keywords of one test
    buffered: Any = simulate(app, algorithm="fedbuff", algorithm_options={"buffer": size}, **same)  # type: ignore[arg-type]
    assert [unlike_clocks(replace(record, staleness={})) for record in buffered.rounds] == [
        unlike_clocks(record) for record in sync.rounds
    ]
    assert all(set(record.staleness.values()) == {0} for record in buffered.rounds)


def test_one_client_and_alpha_one_is_fedavg_to_the_bit(app: Path) -> None:
    sync = simulate(app, clients=1, rounds=4)
    mixed = simulate(app, clients=1, rounds=4, algorithm="fedasync", algorithm_options={"alpha": 1.0})
    assert mixed.model_hash == sync.model_hash


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [("fedbuff", {"buffer": 3}), ("fedbuff", {"buffer": 3, "max_staleness": 1}), ("fedasync", {"alpha": 0.5})],
)
def test_the_same_accepted_with_the_same_staleness_give_the_same_bits_in_any_order_and_grouping(
    algorithm: str, options: dict[str, Any]
) -> None:
    app = descent()
    result = simulate(
        app, clients=12, rounds=12, rules=SIX_AT_ONCE, devices=UNLIKE, algorithm=algorithm, algorithm_options=options
    )
    assert max(record.max_staleness for record in result.rounds) >= 1
    run = run_of(result)
    state: State = run.start(run.initial_model(app))
    broadcasts: dict[int, Arrays] = {}
    buffering, mean = run.algorithm.buffering, run.algorithm.aggregator
    assert buffering is not None
    for record in result.rounds:
        number, current = record.round, run.algorithm.broadcast(state)
        broadcasts[number] = current
        plan = mean.plan(current)
        total = mean.zero(plan)
        for client, stale in reversed(record.staleness.items()):
            base = number - stale
            task = run.task(app, VirtualClients(12).share(client), base, Kind.TRAIN)
            update = run.train(app, broadcasts[base], task)
            counted = replace(update, arrays=buffering.counted(update.arrays, stale, broadcasts[base], current))
            alone = mean.accumulate(plan, mean.zero(plan), counted, Contribution(client, update.num_examples))
            total = mean.merge(plan, alone, total)
        state = run.finish(state, mean.report(plan, total))
        assert codec.digest(state.params) == record.model_hash


def brute_force(
    seconds: Sequence[float], rounds: int, size: int, *, mixes: bool, rate: float
) -> list[npt.NDArray[np.float64]]:
    """Every model, with everybody at work at once, from the papers' words; clients count alike."""
    targets = [target(f"client-{k}").astype(np.float64) for k in range(len(seconds))]
    models = [np.zeros(3)]
    arrivals = [(s, 1, f"client-{k}", k) for k, s in enumerate(seconds)]
    heapq.heapify(arrivals)
    for number in range(1, rounds + 1):
        changes, clients = [], []
        for _ in range(size):
            now, base, _, k = heapq.heappop(arrivals)
            old, s = models[base - 1], (1 + number - base) ** -0.5
            trained = old + 0.25 * (targets[k] - old)
            changes.append(s * (trained - (models[-1] if mixes else old)))
            clients.append(k)
        models.append(models[-1] + rate * np.mean(changes, axis=0))
        for k in clients:
            heapq.heappush(arrivals, (now + seconds[k], number + 1, f"client-{k}", k))
    return models[1:]


@pytest.mark.parametrize(
    ("algorithm", "options", "size", "rate"),
    [
        ("fedbuff", {"buffer": 2, "learning_rate": 0.5}, 2, 0.5),
        ("fedbuff", {"buffer": 1}, 1, 1.0),
        ("fedasync", {"alpha": 0.6}, 1, 0.6),
    ],
)
def test_it_is_what_the_papers_say(algorithm: str, options: dict[str, Any], size: int, rate: float) -> None:
    app = hansa.App()

    @app.model
    def initial_model(_rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
        return {"w": np.zeros(3, np.float32)}

    @app.train
    def train(model: Arrays, task: Task) -> hansa.Update:
        return hansa.Update({"w": model["w"] + RATE * (target(task.client.name) - model["w"])}, num_examples=1)

    seconds = (1.0, 2.5, 3.25, 7.0, 11.0)
    expected = brute_force(seconds, 12, size, mixes=algorithm == "fedasync", rate=rate)
    for rounds in (1, 2, 5, 12):
        result = simulate(
            app, clients=5, rounds=rounds, devices=Speeds(seconds), algorithm=algorithm, algorithm_options=options
        )
        np.testing.assert_allclose(result.model["w"], expected[rounds - 1], atol=1e-6)
    assert max(record.max_staleness for record in result.rounds) >= 2


# ── what happens to clients ──────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_waits_for_the_slow() -> None:
    slow = Speeds((1.0, 1.0, 1.0, 100.0))
    sync = simulate(descent(), clients=4, rounds=6, devices=slow)
    buffered = simulate(
        descent(), clients=4, rounds=6, devices=slow, algorithm="fedbuff", algorithm_options={"buffer": 3}
    )
    assert sum(record.virtual_seconds for record in sync.rounds) == 600.0
    assert [record.virtual_seconds for record in buffered.rounds] == [1.0] * 6


def test_a_record_says_how_stale_who_was() -> None:
    result = simulate(
        descent(),
        clients=3,
        rounds=5,
        devices=Speeds((1.0, 1.0, 2.5)),
        algorithm="fedbuff",
        algorithm_options={"buffer": 2},
    )
    third = result.rounds[2]
    assert third.staleness == {"client-0": 0, "client-2": 2}
    assert (third.mean_staleness, third.max_staleness) == (1.0, 2)
    assert third.virtual_seconds == 1.0
    assert result.table()[2]["mean_staleness"] == 1.0


def test_who_is_too_stale_is_rejected_without_training() -> None:
    trained: list[tuple[str, int]] = []
    app = hansa.App()
    app.model(lambda _rng: {"w": np.zeros(3, np.float32)})

    @app.train
    def train(model: Arrays, task: Task) -> hansa.Update:
        trained.append((task.client.name, task.round))
        return hansa.Update({"w": model["w"] + 1}, num_examples=1)

    result = simulate(
        app,
        clients=3,
        rounds=8,
        devices=Speeds((1.0, 1.0, 4.5)),
        algorithm="fedbuff",
        algorithm_options={"buffer": 2, "max_staleness": 2},
    )
    rejected = {record.round: dict(record.rejected) for record in result.rounds if record.rejected}
    assert rejected == {5: {"client-2": "stale: its model is 4 rounds old, and max_staleness is 2"}}
    assert all(client != "client-2" for client, _ in trained)
    assert len(trained) == len(set(trained)), "nobody trains twice on one model"


def test_failures_free_a_place_and_are_told(app: Path) -> None:
    result = simulate(
        app,
        clients=8,
        rounds=5,
        rules=SIX_AT_ONCE,
        devices=UNLIKE,
        config={"client-1": "raise", "client-2": "nan"},
        tolerate_failures=True,
        algorithm="fedbuff",
        algorithm_options={"buffer": 4},
    )
    assert any("the sensor is off" in record.failed.get("client-1", "") for record in result.rounds)
    assert any("not-finite" in record.rejected.get("client-2", "") for record in result.rounds)
    for record in result.rounds:
        assert len(record.accepted) == 4
        assert not {"client-1", "client-2"} & set(record.accepted)


def test_dropouts_lose_their_lease_and_their_place() -> None:
    result = simulate(
        descent(),
        clients=10,
        rounds=6,
        rules=SIX_AT_ONCE,
        devices=Dropouts(0.4),
        algorithm="fedbuff",
        algorithm_options={"buffer": 5},
    )
    assert any(record.missing for record in result.rounds)
    assert all(len(record.accepted) == 5 for record in result.rounds)


def test_where_all_vanish_the_run_ends_with_who_was_missing() -> None:
    with pytest.raises(QuorumNotMetError, match="0 of 2 updates are in its buffer"):
        simulate(
            descent(),
            clients=4,
            rounds=2,
            devices=Dropouts(1.0),
            algorithm="fedbuff",
            algorithm_options={"buffer": 2},
        )


def test_a_straggler_takes_longer_for_all_of_its_work(app: Path) -> None:
    result = simulate(
        app,
        clients=8,
        rounds=4,
        rules=SIX_AT_ONCE,
        devices=Stragglers(0.5),
        algorithm="fedbuff",
        algorithm_options={"buffer": 3},
    )
    assert all(record.metrics["work"] == 1.0 for record in result.rounds)
    assert any(record.max_staleness for record in result.rounds)


@dataclass(frozen=True)
class Commuters:
    """Even clients are there in even hundreds of seconds, odd ones in odd; each task takes 30."""

    def behave(self, clients: Sequence[str], invitation: Invitation, random_for: RandomFor) -> Sequence[Behaviour]:
        del invitation, random_for
        return [Behaviour(30.0 + int(client.removeprefix("client-"))) for client in clients]

    def present(self, numbers: npt.NDArray[np.int64], at: float) -> npt.NDArray[np.bool_]:
        return np.asarray(int(at // 100) % 2 == numbers % 2)

    def next_change(self, number: int, at: float) -> float:
        del number
        return (at // 100 + 1) * 100


def test_who_is_away_gets_no_task_and_who_leaves_loses_it() -> None:
    result = simulate(
        descent(), clients=6, rounds=12, devices=Commuters(), algorithm="fedbuff", algorithm_options={"buffer": 2}
    )
    now = 0.0
    for record in result.rounds:
        now += record.virtual_seconds
    assert now > 200.0
    parities = [{int(client.removeprefix("client-")) % 2 for client in record.accepted} for record in result.rounds]
    assert parities[0] == {0}
    assert {1} in parities


# ── engines ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [("fedbuff", {"buffer": 3}), pytest.param("fedasync", {"alpha": 0.5}, marks=pytest.mark.slow)],
)
def test_processes_give_the_same_records_and_bits_also_where_one_dies(
    app: Path, algorithm: str, options: dict[str, Any]
) -> None:
    given: dict[str, Any] = {
        "clients": 12,
        "rounds": 6,
        "rules": SIX_AT_ONCE,
        "devices": UNLIKE,
        "algorithm": algorithm,
        "algorithm_options": options,
    }
    ways = ({"engine": "processes", "workers": 2, "config": {"client-5": "exit"}}, {"config": {"client-5": "raise"}})
    spread, alone = (simulate(app, tolerate_failures=True, **way, **given) for way in ways)
    for mine, yours in zip(alone.rounds, spread.rounds, strict=True):
        assert mine.model_hash == yours.model_hash
        assert mine.staleness == yours.staleness
        assert mine.failed.keys() == yours.failed.keys()
    assert any(record.max_staleness for record in alone.rounds)


def test_many_clients_in_one_computation_train_on_models_of_different_age() -> None:
    results = [
        simulate(
            "fedbuff",
            model=softmax_regression(64, 10),
            data=digits.read(),
            clients=12,
            rounds=6,
            rules=SIX_AT_ONCE,
            devices=UNLIKE,
            algorithm_options={"buffer": 3},
            engine=engine,
        )
        for engine in ("inline", "vectorized")
    ]
    assert [record.staleness for record in results[0].rounds] == [record.staleness for record in results[1].rounds]
    for name, array in results[0].model.items():
        np.testing.assert_allclose(results[1].model[name], array, atol=1e-5)


def test_memory_follows_what_is_committed() -> None:
    app = hansa.App()
    app.model(lambda _rng: {"w": np.zeros(3, np.float32)})

    @app.train
    def train(model: Arrays, task: Task) -> hansa.Update:
        seen = 0.0 if task.memory is None else float(task.memory["n"])
        return hansa.Update(
            {"w": model["w"] + 1}, num_examples=1, metrics={"seen": seen}, memory={"n": np.asarray(seen + 1)}
        )

    result = simulate(
        app,
        clients=3,
        rounds=9,
        devices=Speeds((1.0, 2.2, 3.3)),
        algorithm="fedasync",
        algorithm_options={"max_staleness": 2},
    )
    counts: dict[str, int] = {}
    for record in result.rounds:
        (client,) = record.accepted
        assert record.metrics["seen"] == counts.get(client, 0)
        counts[client] = counts.get(client, 0) + 1


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"algorithm_options": {"buffer": 5}}, "buffer is 5, and there are 4 clients"),
        ({"rules": RoundRules(enough=2)}, "leave `enough` out"),
        ({"rules": RoundRules(replace_failed=False)}, "leave `replace_failed` on"),
        ({"rules": RoundRules(quorum=3, min_clients=3)}, "fewer than the quorum of 3"),
        ({"aggregator": "krum", "aggregator_options": {"f": 1}}, "krum needs at least"),
        ({"transforms": ["clip:norm=1.0", "gaussian-noise:multiplier=1.0"]}, "privacy is accounted for"),
        ({"attack": "alie:0.5"}, "choose an attack that each client does by itself"),
    ],
)
def test_what_has_no_meaning_is_refused(given: dict[str, Any], said: str) -> None:
    options = {"algorithm_options": {"buffer": 2}, **given}
    with pytest.raises(ConfigError, match=said):
        simulate(descent(), clients=4, rounds=2, algorithm="fedbuff", **options)


def test_there_is_nothing_to_compare_a_network_with(app: Path) -> None:
    with pytest.raises(ConfigError, match="who is counted when depends on the order of arrival"):
        check_parity(app, RunSpec(algorithm="fedbuff"), 4)


def test_the_mean_of_the_paper_counts_clients_alike() -> None:
    result = simulate(
        descent(), clients=4, rounds=1, algorithm="fedbuff", algorithm_options={"buffer": 4},
        aggregator_options={"uniform": True},
    )  # fmt: skip
    assert isinstance(run_of(result).algorithm.aggregator, WeightedMean)
    assert result.rounds[0].num_examples == 1 + 2 + 3 + 1
