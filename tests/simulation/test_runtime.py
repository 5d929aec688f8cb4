"""Rounds in one process, on a virtual clock."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import hansa
from hansa.errors import AppError, ConfigError, QuorumNotMetError
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.run import resolve
from hansa.simulation import Behaviour, Dropouts, LogNormalSpeeds, RoundRecord, Stragglers, simulate
from hansa.simulation.devices import Invitation, RandomFor
from hansa.simulation.keywords import Settings
from hansa.wire import codec

FIVE_OF_TWENTY = RoundRules(selection="count", count=5)


@dataclass(frozen=True)
class Scripted:
    """Behaviour by name; the others answer after one second."""

    script: dict[str, Behaviour]

    def behave(self, clients: Sequence[str], invitation: Invitation, random_for: RandomFor) -> Sequence[Behaviour]:
        del invitation, random_for
        return [self.script.get(client, Behaviour(1.0)) for client in clients]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(app: Path) -> None:
    one, again, other = (simulate(app, clients=20, rounds=3, rules=FIVE_OF_TWENTY, seed=seed) for seed in (1, 1, 2))
    assert one.history == [
        {**record, "seconds": mine["seconds"]} for record, mine in zip(again.history, one.history, strict=True)
    ]
    assert one.model_hash == again.model_hash != other.model_hash
    assert one.model_hash == codec.digest(one.model) == one.rounds[-1].model_hash


def test_a_record_says_who_took_part_and_what_was_measured(app: Path) -> None:
    result = simulate(app, clients=20, rounds=3, rules=FIVE_OF_TWENTY, evaluation=EvaluationRules(every=2))
    assert [len(record.accepted) for record in result.rounds] == [5, 5, 5]
    assert [set(record.evaluation) for record in result.rounds] == [set(), {"norm", "draw"}, {"norm", "draw"}]
    assert [set(record.central) for record in result.rounds] == [set(), {"size", "draw"}, {"size", "draw"}]
    first = result.rounds[0]
    assert first.num_examples == sum(10 + int(name.removeprefix("client-")) % 7 for name in first.accepted)
    assert first.metrics["work"] == 1.0
    assert result.state.round == 3
    assert int(result.model["steps"]) == 9
    json.dumps(result.history)


def test_a_record_keeps_what_each_client_reported_and_measured_and_how_long_its_update_was() -> None:
    app = hansa.App()
    app.model(lambda _: {"w": np.zeros(2, np.float32)})
    app.data(lambda client: client.index)

    @app.train
    def train(model: hansa.Arrays, task: hansa.Task) -> hansa.Update:
        told = {"loss": float(task.data)} | ({"odd": 0.5} if task.data % 2 else {})
        return hansa.Update({"w": model["w"] + np.float32([3, 4]) * np.float32(task.data)}, 1, told)

    @app.evaluate
    def evaluate(_: hansa.Arrays, task: hansa.Task) -> hansa.Metrics:
        return hansa.Metrics({"error": float(task.data)}, 1)

    record = simulate(app, clients=3, rounds=1, engine="inline").rounds[0]
    assert tuple(record.examples) == ("client-0", "client-1", "client-2")
    assert record.reports["loss"] == (0.0, 1.0, 2.0)
    assert record.reports["odd"] == (None, 0.5, None)
    assert record.norms == pytest.approx((0.0, 5.0, 10.0))  # 3² + 4² = 5²
    assert (record.evaluated, record.verdicts) == (("client-0", "client-1", "client-2"), {"error": (0.0, 1.0, 2.0)})


def test_the_model_is_saved_for_every_safetensors_reader(app: Path, tmp_path: Path) -> None:
    result = simulate(app, clients=2, rounds=1)
    result.save(tmp_path / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    assert {name: array.tobytes() for name, array in saved.items()} == {
        name: array.tobytes() for name, array in result.model.items()
    }


def test_on_round_hears_every_round_and_stop_ends_the_run(app: Path) -> None:
    heard: list[RoundRecord] = []
    result = simulate(app, clients=3, rounds=9, on_round=heard.append, stop=lambda record: record.round == 4)
    assert tuple(heard) == result.rounds
    assert [record.round for record in heard] == [1, 2, 3, 4]


def test_a_given_model_takes_the_place_of_the_apps(app: Path) -> None:
    whole = simulate(app, clients=4, rounds=1)
    zeros = {"w": np.zeros((4, 2), np.float32), "steps": np.asarray(10)}
    result = simulate(app, clients=4, rounds=1, initial_model=zeros)
    assert result.model_hash != whole.model_hash
    assert not result.model["w"].any()
    assert int(result.model["steps"]) == 13


def test_keywords_are_the_fields_of_a_spec_and_replace_those_of_one_that_is_given(app: Path) -> None:
    assert Settings.__annotations__.keys() == {field.name for field in fields(RunSpec)}
    spec = RunSpec(rounds=5, seed=3)
    result = simulate(app, spec, clients=4, rounds=2)
    assert result.spec == replace(spec, rounds=2)
    assert result.model_hash == simulate(app, clients=4, rounds=2, seed=3).model_hash


def test_an_app_that_was_made_in_memory_runs_inline() -> None:
    app = hansa.App()
    seen: list[str] = []

    @app.model
    def model(_rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"w": np.zeros(2)}

    @app.train
    def train(model: hansa.Arrays, task: hansa.Task) -> hansa.Update:
        seen.append(task.client.name)
        return hansa.Update({"w": model["w"] + 1}, num_examples=1)

    result = hansa.simulate(app, clients=3, rounds=2)
    assert seen == ["client-0", "client-1", "client-2"] * 2
    assert result.model["w"].tolist() == [2.0, 2.0]
    assert result.rounds[0].evaluation == result.rounds[0].central == {}
    with pytest.raises(AppError, match=r"save it as app\.py"):
        hansa.simulate(app, clients=3, rounds=2, engine="processes")


def test_an_unknown_engine_is_refused(app: Path) -> None:
    with pytest.raises(ConfigError, match="inline, processes"):
        simulate(app, clients=2, engine="threads")  # type: ignore[arg-type]  # the point


# ── user code that fails ─────────────────────────────────────────────────────────────────────────────────────────────


def test_an_exception_of_user_code_ends_an_inline_simulation_with_the_users_line(app: Path) -> None:
    with pytest.raises(ValueError, match="the sensor is off") as caught:
        simulate(app, clients=4, rounds=1, config={"client-2": "raise"})
    last = caught.traceback[-1]
    assert (last.path, "the user's line" in str(last.statement)) == (app, True)
    assert caught.value.__notes__ == ["hansa: raised while client-2 trained in round 1"]


def test_a_tolerated_failure_is_named_and_replaced(app: Path) -> None:
    rules = RoundRules(selection="count", count=5)
    plain = simulate(app, clients=20, rounds=1, rules=rules)
    broken = plain.rounds[0].accepted[2]
    result = simulate(app, clients=20, rounds=1, rules=rules, config={broken: "raise"}, tolerate_failures=True)
    record = result.rounds[0]
    line = app.read_text().splitlines().index('        raise ValueError("the sensor is off")  # the user\'s line') + 1
    assert record.failed == {broken: f"ValueError: the sensor is off ({app}:{line})"}
    assert len(record.accepted) == 5
    assert set(plain.rounds[0].accepted) - {broken} < set(record.accepted)


def test_without_replacement_the_round_goes_on_with_the_others(app: Path) -> None:
    rules = RoundRules(replace_failed=False)
    result = simulate(app, clients=4, rounds=1, rules=rules, config={"client-1": "sys.exit"}, tolerate_failures=True)
    assert result.rounds[0].accepted == ("client-0", "client-2", "client-3")
    assert "SystemExit: enough" in result.rounds[0].failed["client-1"]


def test_an_update_that_may_not_count_is_rejected_with_its_reason(app: Path) -> None:
    config = {"client-0": "nan", "client-1": "nothing"}
    record = simulate(app, clients=4, rounds=1, config=config).rounds[0]
    assert record.accepted == ("client-2", "client-3")
    assert record.rejected["client-0"].startswith("not-finite: 'w'")
    assert record.rejected["client-1"].startswith("weight: num_examples is 0")


def test_a_failed_evaluation_is_named_and_the_others_count(app: Path) -> None:
    record = simulate(app, clients=3, rounds=1, config={"client-1": "blind"}, tolerate_failures=True).rounds[0]
    assert list(record.failed_evaluations) == ["client-1"]
    assert "no test set" in record.failed_evaluations["client-1"]
    assert record.evaluation["norm"] > 0


def test_a_quorum_that_is_missed_names_who_failed_and_shows_the_first_traceback(app: Path) -> None:
    config = dict.fromkeys(["client-0", "client-2"], "raise")
    rules = RoundRules(quorum=3, min_clients=3)
    with pytest.raises(QuorumNotMetError, match=r"1 of 3 .* client-0 .* client-2 ") as caught:
        simulate(app, clients=3, rounds=1, rules=rules, config=config, tolerate_failures=True)
    assert "the user's line" in caught.value.__notes__[0]


# ── the virtual clock ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_round_lasts_as_long_as_its_slowest_client(app: Path) -> None:
    record = simulate(app, clients=3, rounds=1, devices=Scripted({"client-1": Behaviour(40.0)})).rounds[0]
    assert record.virtual_seconds == 40.0
    assert record.seconds < 5.0


def test_enough_closes_a_round_with_the_fastest(app: Path) -> None:
    slow = {f"client-{k}": Behaviour(10.0 - k) for k in range(5)}
    record = simulate(app, clients=5, rounds=1, rules=RoundRules(enough=2), devices=Scripted(slow)).rounds[0]
    assert record.accepted == ("client-3", "client-4")
    assert record.missing == ("client-0", "client-1", "client-2")
    assert record.virtual_seconds == 7.0


def test_a_device_that_vanishes_loses_its_lease_and_is_replaced(app: Path) -> None:
    rules = RoundRules(selection="count", count=5, lease=30.0)
    invited = simulate(app, clients=20, rounds=1, rules=rules).rounds[0].accepted
    gone = Scripted({invited[0]: Behaviour(drops_out=True), invited[1]: Behaviour(200.0)})
    record = simulate(app, clients=20, rounds=1, rules=rules, devices=gone).rounds[0]
    assert record.missing == (invited[0],)
    assert len(record.accepted) == 5
    assert set(invited[1:]) < set(record.accepted)
    assert record.virtual_seconds == 200.0


def test_who_misses_the_deadline_is_missing_and_never_trains(app: Path) -> None:
    late = Scripted({"client-0": Behaviour(101.0), "client-1": Behaviour(100.0)})
    rules = RoundRules(deadline=100.0, lease=7.0)
    # client-0 would raise if it trained
    record = simulate(app, clients=4, rounds=1, rules=rules, devices=late, config={"client-0": "raise"}).rounds[0]
    assert record.accepted == ("client-1", "client-2", "client-3")
    assert record.missing == ("client-0",)
    assert record.virtual_seconds == 100.0


def test_a_missed_quorum_names_who_is_still_at_work(app: Path) -> None:
    late = Scripted({"client-0": Behaviour(101.0), "client-2": Behaviour(drops_out=True)})
    rules = RoundRules(deadline=100.0, quorum=2, min_clients=2)
    with pytest.raises(QuorumNotMetError, match=r"1 of 3 .*still at work: client-0.*lost its lease.*client-2"):
        simulate(app, clients=3, rounds=1, rules=rules, devices=late)


def test_fedavg_drops_stragglers_and_fedprox_keeps_what_they_did(app: Path) -> None:
    rules = RoundRules(selection="count", count=10)
    dropped = simulate(app, clients=30, rounds=3, rules=rules, devices=Stragglers(0.9))
    assert [(len(r.accepted), len(r.missing), r.virtual_seconds) for r in dropped.rounds] == [(1, 9, 3600.0)] * 3
    kept = simulate(
        app,
        clients=30,
        rounds=3,
        rules=rules,
        devices=Stragglers(0.9),
        algorithm="fedprox",
        algorithm_options={"mu": 0.0},
    )
    assert [(len(r.accepted), r.virtual_seconds) for r in kept.rounds] == [(10, 1.0)] * 3
    assert all(0.2 < record.metrics["work"] < 0.9 for record in kept.rounds)


def test_a_device_too_slow_for_the_deadline_does_the_share_that_fits(app: Path) -> None:
    record = simulate(
        app,
        clients=1,
        rounds=1,
        rules=RoundRules(deadline=30.0),
        devices=Scripted({"client-0": Behaviour(120.0)}),
        algorithm="fedprox",
        algorithm_options={"mu": 0.0},
    ).rounds[0]
    assert record.metrics["work"] == 0.25
    assert record.virtual_seconds == pytest.approx(30.0)


def test_a_substitute_that_a_failure_calls_earlier_does_as_much_as_its_time_allows(app: Path) -> None:
    spec = RunSpec(
        rounds=1,
        rules=RoundRules(selection="count", count=3, deadline=100.0, lease=30.0),
        algorithm="fedprox",
        algorithm_options={"mu": 0.0},
    )
    cohort = resolve(spec).cohort(sorted(f"client-{k}" for k in range(10)), 1)
    fails, vanishes, works = cohort.invited
    first, second = cohort.substitutes[:2]
    script = {
        vanishes: Behaviour(drops_out=True),
        first: Behaviour(200.0),  # takes the place of `fails` at 1 s: 99 s of 200 remain
        second: Behaviour(200.0),  # takes the place of `vanishes` at 30 s: 70 s of 200 remain
    }
    config = {fails: "raise"}
    result = simulate(app, spec, clients=10, devices=Scripted(script), config=config, tolerate_failures=True)
    record = result.rounds[0]
    assert (record.failed.keys(), record.missing) == ({fails}, (vanishes,))
    assert record.accepted == tuple(sorted([works, first, second]))
    examples = {name: 10 + int(name.removeprefix("client-")) % 7 for name in record.accepted}
    done = examples[works] * 1.0 + examples[first] * 0.495 + examples[second] * 0.35
    assert record.metrics["work"] == pytest.approx(done / sum(examples.values()))
    assert record.num_examples == sum(examples.values())
    assert int(result.model["steps"]) == 3
    together = simulate(app, spec, clients=10, devices=Scripted(script), config=config, engine="processes", workers=2)
    assert together.model_hash == result.model_hash


def test_who_was_trained_for_nothing_is_not_in_the_sum(app: Path) -> None:
    rules = RoundRules(selection="count", count=3, lease=30.0, enough=2)
    spec = RunSpec(rounds=1, rules=rules)
    cohort = resolve(spec).cohort(sorted(f"client-{k}" for k in range(10)), 1)
    fails, vanishes, slow = cohort.invited
    first, second = cohort.substitutes[:2]
    # Were it not for the failure: `fails` at 1 s and `slow` at 75 s are enough, so `slow` is trained. But as things
    # go, `first` takes a place at 1 s and `second` at 30 s; they arrive at 51 s and 31 s, before `slow`.
    script = {
        vanishes: Behaviour(drops_out=True),
        slow: Behaviour(75.0),
        first: Behaviour(50.0),
        second: Behaviour(1.0),
    }
    config = {fails: "raise"}
    alone = simulate(app, spec, clients=10, devices=Scripted(script), config=config, tolerate_failures=True)
    record = alone.rounds[0]
    assert (record.virtual_seconds, record.failed.keys()) == (51.0, {fails})
    assert record.accepted == tuple(sorted([first, second]))
    assert record.missing == tuple(sorted([vanishes, slow]))
    assert record.num_examples == sum(10 + int(name.removeprefix("client-")) % 7 for name in (first, second))
    together = simulate(app, spec, clients=10, devices=Scripted(script), config=config, engine="processes", workers=2)
    assert together.model_hash == alone.model_hash


def test_dropouts_are_counted(app: Path) -> None:
    rules = RoundRules(deadline=60.0)
    result = simulate(app, clients=40, rounds=5, rules=rules, devices=Dropouts(0.25))
    missing = sum(len(record.missing) for record in result.rounds)
    assert missing == pytest.approx(50, abs=20)
    assert all(len(r.accepted) + len(r.missing) == 40 for r in result.rounds)


def test_who_counts_under_slow_devices_is_the_same_in_every_run(app: Path) -> None:
    devices = LogNormalSpeeds(10.0, sigma=1.0, jitter=0.3, dropout=0.1)
    rules = RoundRules(selection="count", count=8, deadline=40.0, enough=5)
    one, two = (simulate(app, clients=30, rounds=4, rules=rules, devices=devices) for _ in range(2))
    assert [r.accepted for r in one.rounds] == [r.accepted for r in two.rounds]
    assert one.model_hash == two.model_hash


# ── very many clients ────────────────────────────────────────────────────────────────────────────────────────────────


MEASURED = """
import sys, tracemalloc
from hansa.messages import EvaluationRules, RoundRules
from hansa.simulation import simulate

def measure(clients):
    tracemalloc.start()
    rules = RoundRules(selection="count", count=100)
    result = simulate(sys.argv[1], clients=clients, rounds=2, rules=rules, evaluation=EvaluationRules(every=0))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return len(result.rounds[-1].accepted), most

measure(200)  # what is loaded and cached once
print(*measure(10_000), *measure(1_000_000))
"""


def test_a_million_registered_clients_cost_nothing_until_they_are_selected(app: Path) -> None:
    # In a process of its own: what threads of other tests allocate meanwhile would be counted too.
    told = subprocess.run([sys.executable, "-c", MEASURED, app], capture_output=True, text=True, check=True)
    accepted_of_few, few, accepted_of_many, many = map(int, told.stdout.split())
    assert accepted_of_few == accepted_of_many == 100
    assert many < few + 1_000_000  # one byte per registered client would already be too much
