"""What a client keeps between rounds: its own, and only of rounds that counted it."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from cases import slow
from memory_apps import CONTRASTING, COUNTING, DRIFTING, written

import hansa
from hansa.messages import RoundRules, RunSpec, Value
from hansa.simulation import check_parity, differences
from hansa.simulation.runtime import EngineName

HALF = RoundRules(selection="fraction", fraction=0.5)


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("scaffold", {"num_clients": 9}),
        slow("scaffold", {"num_clients": 9, "weighted": True}),
        slow("fednova", {"mu": 0.1, "momentum": 0.5}),
        ("feddyn", {"num_clients": 9}),
        slow("mimelite", {}),
        ("mime", {}),
        slow("qfedavg", {"learning_rate": 0.2, "q": 2.0}),
        slow("afl", {"num_clients": 9}),
        ("ditto", {}),
        slow("fedper", {"personal": "bias"}),
        ("fedrep", {"personal": "bias", "head_passes": 2}),
        slow("pfedme", {"penalty": 1.0, "local_rounds": 3}),
    ],
)
def test_an_algorithm_has_the_same_bits_in_every_way(
    tmp_path: Path, algorithm: str, options: Mapping[str, Value]
) -> None:
    spec = RunSpec(algorithm=algorithm, algorithm_options=options, rounds=4, rules=HALF)
    variants = check_parity(written(tmp_path, DRIFTING), spec, 9)
    assert len(variants) == 7
    assert differences(variants) == {}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["moon", "fedbn", "mime"])
def test_an_algorithm_has_the_same_bits_in_every_way_with_torch(tmp_path: Path, algorithm: str) -> None:
    pytest.importorskip("torch")
    variants = check_parity(written(tmp_path, CONTRASTING), RunSpec(algorithm=algorithm, rounds=3, rules=HALF), 6)
    assert differences(variants) == {}


def test_scaffold_is_not_fedavg_once_clients_come_again(tmp_path: Path) -> None:
    app = written(tmp_path, DRIFTING)
    spec = RunSpec(algorithm="scaffold", algorithm_options={"num_clients": 3}, rounds=2)
    models = [[record.model_hash for record in hansa.simulate(app, spec, clients=3).rounds]]
    models += [[record.model_hash for record in hansa.simulate(app, rounds=2, clients=3).rounds]]
    assert models[0][1] != models[1][1]


@pytest.mark.parametrize("engine", ["inline", "processes"])
def test_a_client_evaluates_the_model_of_its_own(tmp_path: Path, engine: EngineName) -> None:
    # Left to itself (λ = 0), each client fits its own data better than the model of all does.
    app = written(tmp_path, DRIFTING)
    spec = RunSpec(algorithm="ditto", algorithm_options={"pull": 0.0}, rounds=5)
    own = hansa.simulate(app, spec, clients=4, engine=engine, workers=2).rounds
    together = hansa.simulate(app, rounds=5, clients=4).rounds
    assert [record.model_hash for record in own] == [record.model_hash for record in together]
    assert own[-1].evaluation["accuracy"] > together[-1].evaluation["accuracy"] + 0.1


@pytest.mark.parametrize("engine", ["inline", "processes"])
def test_a_client_remembers_only_the_rounds_that_counted_it(tmp_path: Path, engine: EngineName) -> None:
    rules = RoundRules(min_clients=3, quorum=2, replace_failed=False)
    config = {"client-1/2": "nan"}
    spec = RunSpec(rounds=4, rules=rules, config=config)
    result = hansa.simulate(written(tmp_path, COUNTING), spec, clients=3, engine=engine, workers=2)
    assert [record.accepted for record in result.rounds][1] == ("client-0", "client-2")
    # In round r, r − 1 rounds are remembered; by client-1 one less from round 3 on. Summed: 0, 1, (2+1+2)/3 …
    assert [record.metrics["times"] for record in result.rounds] == [0, 1, pytest.approx(5 / 3), pytest.approx(8 / 3)]
    assert [record.evaluation["times"] for record in result.rounds] == [
        1,
        pytest.approx(5 / 3),
        pytest.approx(8 / 3),
        pytest.approx(11 / 3),
    ]


def test_a_worker_that_dies_takes_no_memory_with_it(tmp_path: Path) -> None:
    app, config = written(tmp_path, COUNTING), {"client-2/2": "exit"}
    rules = RoundRules(min_clients=6, quorum=2, replace_failed=False)
    spec = RunSpec(rounds=3, rules=rules, config=config)
    result = hansa.simulate(app, spec, clients=6, engine="processes", workers=2)
    assert set(result.rounds[1].failed) == {"client-2"}
    assert [record.metrics["times"] for record in result.rounds] == [0, 1, pytest.approx(11 / 6)]


def test_a_simulation_reports_the_examples_also_of_an_unweighted_mean(tmp_path: Path) -> None:
    spec = RunSpec(algorithm="scaffold", algorithm_options={"num_clients": 3}, rounds=1)
    assert hansa.simulate(written(tmp_path, DRIFTING), spec, clients=3).rounds[0].num_examples == 12 + 13 + 14
