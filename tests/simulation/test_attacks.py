"""Malicious clients: who they are, what they send, and the same bits with every engine."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from cases import some

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.arrays import Arrays
from hansa.data import Examples, Split
from hansa.errors import AppError, ConfigError
from hansa.messages import RoundRules, RunSpec, Update
from hansa.run import resolve
from hansa.simulation.attacks import ATTACKS, Attack, Attackers, flipped, moments, triggered
from hansa.simulation.clients import VirtualClients
from hansa.simulation.runtime import EngineName
from hansa.training.numpy import NumpyTrainer, softmax_regression

PLAIN = """
import numpy as np
import hansa
from hansa.data import Examples
from hansa.training.numpy import NumpyTrainer, softmax_regression

app = hansa.App(trainer=NumpyTrainer(softmax_regression(6, 3), learning_rate=0.1, batch_size=4, epochs=1))

@app.data
def data(client):
    rng = np.random.default_rng(client.index)
    return Examples(rng.normal(size=(9, 6)).astype(np.float32), rng.integers(0, 3, 9))
"""


@pytest.fixture
def plain(write_app: Callable[[str], Path]) -> Path:
    return write_app(PLAIN)


# ── naming ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", ["sign-flip:0.2", "alie:0.3,z=1.5", "backdoor+scaling:0.1,factor=10.0,target=3.0"])
def test_an_attack_is_one_line_both_ways(text: str):
    assert str(Attack.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sign-flip", "share of malicious clients is missing"),
        ("sign-flip:a fifth", "cannot be read; write for example sign-flip:0.2"),
        ("sign-flip:0.2,factor", "cannot be read"),
        ("signflip:0.2", "there is no attack signflip; there is: sign-flip, scaling"),
        ("sign-flip+:0.2", "there is no attack ''; there is"),
        ("sign-flip:1", "share of malicious clients is 1.0"),
        ("sign-flip:0.2,factor=2,factor=3", "gives an option twice"),
        ("sign-flip:0.2,factor=nan", "the attack's factor is nan; it must be a finite number"),
        ("gaussian:0.2,sigma=-1", "the attack's sigma is -1; it must be a finite number of at least 0"),
        ("backdoor:0.2,poisoned=2", "the attack's poisoned is 2; it must be a finite number from 0 to 1"),
        ("backdoor:0.2,size=0", "the attack's size is 0; it must be a whole number of at least 1"),
        ("backdoor:0.2,target=1.5", "the attack's target is 1.5; it must be a whole number of at least 0"),
        ("sign-flip:0.2,sigma=1", "has no option 'sigma'; it has factor"),
    ],
)
def test_what_is_no_attack_says_what_is(text: str, said: str):
    with pytest.raises(ConfigError, match=said):
        Attack.parse(text)


def test_who_attacks_is_drawn_by_the_seed(plain: Path):
    drawn = {
        seed: hansa.simulate(plain, clients=20, rounds=1, seed=seed, attack="sign-flip:0.25").malicious
        for seed in (0, 0, 1)
    }
    assert [len(names) for names in drawn.values()] == [5, 5]
    assert drawn[0] != drawn[1]
    assert hansa.simulate(plain, clients=20, rounds=1, attack="sign-flip:0.25").malicious == drawn[0]
    assert hansa.simulate(plain, clients=20, rounds=1).malicious == ()


def test_whom_the_aggregator_trusts_does_not_attack():
    clients = VirtualClients(3)
    for trusted in clients:
        spec = RunSpec(aggregator="fltrust", aggregator_options={"trusted": trusted})
        names = Attackers(Attack(("ipm",), 0.99), resolve(spec), clients).names
        assert names == set(clients) - {trusted}


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────────────────────────


def sent(attack: str, honest: Mapping[str, float], clients: int = 10) -> dict[str, list[float]]:
    """What each malicious client sends; honest: by client, the value of its update's one coordinate."""
    names = VirtualClients(clients)
    attackers = Attackers(Attack.parse(attack), resolve(RunSpec()), names)

    def update(name: str) -> Update:
        return Update({"w": np.array([honest[name]], np.float32), "n": np.array([7])}, 3)

    def known() -> object:
        invited, colluders = attackers.invited(1)
        return moments(map(update, colluders), invited)

    found = {name: attackers.sent(name, 1, update(name), known) for name in names}
    assert all(each.arrays["w"].dtype == np.float32 for each in found.values())
    assert all(each.arrays["n"].tolist() == [7] for each in found.values())
    assert all(found[name].arrays == update(name).arrays for name in set(names) - attackers.names)
    return {name: found[name].arrays["w"].tolist() for name in sorted(attackers.names)}


HONEST = {name: float(k) for k, name in enumerate(VirtualClients(10))}


@pytest.mark.parametrize(
    ("attack", "factor"), [("sign-flip:0.2", -1), ("sign-flip:0.2,factor=3", -3), ("scaling:0.2", 10)]
)
def test_a_forged_update_is_a_multiple_of_the_honest_one(attack: str, factor: float):
    assert sent(attack, HONEST) == {name: [factor * HONEST[name]] for name in sent(attack, HONEST)}


def test_noise_is_in_the_place_of_the_update_and_drawn_anew():
    values = [value for (value,) in sent("gaussian:0.9,sigma=2", HONEST).values()]
    assert len(set(values)) == 9
    assert 0.5 < np.std(values) < 4
    assert set(map(tuple, sent("free-rider:0.3", HONEST).values())) == {(0.0,)}


def test_alie_hides_behind_a_majority():
    # n = 10, m = 3: s = 6 - 3 = 3, Φ⁻¹((7 - 3)/7) = 0.18001; μ and s are the attackers' own
    forged = sent("alie:0.3", HONEST)
    own = [HONEST[name] for name in forged]
    expected = np.mean(own) - 0.18001236979 * np.std(own)
    assert [value for (value,) in forged.values()] == pytest.approx([expected] * 3, rel=1e-6)
    stronger = sent("alie:0.3,z=1.5", HONEST)
    assert next(iter(stronger.values())) == pytest.approx([np.mean(own) - 1.5 * np.std(own)], rel=1e-6)


def test_ipm_sends_the_mean_turned_around():
    forged = sent("ipm:0.4,epsilon=2", HONEST)
    own = [HONEST[name] for name in forged]
    assert list(forged.values()) == [[-2 * np.mean(own)]] * 4


def test_attacks_are_combined_in_their_order():
    assert sent("sign-flip+scaling:0.2,factor=3", HONEST) == {
        name: [-9 * HONEST[name]] for name in sent("sign-flip:0.2", HONEST)
    }


def test_one_colluder_has_no_deviation():
    known = moments([Update({"w": np.array([3.0])}, 1)], 5)
    assert (known.colluders, known.mean["w"].tolist(), known.deviation["w"].tolist()) == (1, [3.0], [0.0])


# ── what is trained on ───────────────────────────────────────────────────────────────────────────────────────────────


def test_labels_are_turned_around_and_inputs_are_marked():
    examples = Examples(np.zeros((2, 2, 3)), np.array([0, 2]))
    assert flipped(examples, 10).y.tolist() == [9, 7]
    marked = triggered(examples.x, size=2, value=5.0)
    assert marked.tolist() == [[[0, 0, 0], [0, 5, 5]]] * 2
    assert not examples.x.any()


def test_only_the_malicious_train_on_other_data_and_only_train():
    seen: dict[str, set[tuple[int, ...]]] = {"train": set(), "test": set()}
    app = hansa.App()
    app.model(lambda _: {"w": np.zeros(1)})

    @app.data
    def data(client: hansa.ClientInfo) -> Split:
        examples = Examples(np.zeros((4, 5)), np.full(4, client.index))
        return Split(examples, examples)

    @app.train
    def train(model: Arrays, task: hansa.Task) -> Update:
        seen["train"].add((task.client.index, *task.data.train.y.tolist(), int(task.data.train.x.sum())))
        seen["test"].add((task.client.index, *task.data.test.y.tolist()))
        return Update(model, 1)

    hansa.simulate(app, clients=4, rounds=2, attack="backdoor:0.25,target=9,size=3,value=2")
    changed = {row for row in seen["train"] if 9 in row}
    ((index, *labels, total),) = changed
    assert (sorted(labels), total) == (sorted([index, index, 9, 9]), 2 * 3 * 2)
    assert len(seen["train"]) == len(seen["test"]) == 4
    assert seen["test"] == {(k, k, k, k, k) for k in range(4)}


@pytest.mark.parametrize("data", ["a text", (np.zeros(3), np.zeros(2)), (np.zeros(3), np.zeros(3))])
def test_data_that_cannot_be_poisoned_are_refused(data: object):
    app = hansa.App(trainer=NumpyTrainer(softmax_regression(1, 2), learning_rate=0.1, batch_size=1))
    app.data(lambda _client: data)
    with pytest.raises(AppError, match="the attack label-flip changes"):
        hansa.simulate(app, clients=1, rounds=1, attack="label-flip:0.9")


def test_labels_of_several_inputs_are_turned_around_and_a_backdoor_into_them_is_refused():
    seen: set[tuple[int, ...]] = set()
    app = hansa.App()
    app.model(lambda _: {"w": np.zeros(1)})
    app.data(lambda _: ({"left": np.zeros(3), "right": np.ones((3, 2))}, np.array([0, 1, 2])))

    @app.train
    def train(model: Arrays, task: hansa.Task) -> Update:
        assert set(task.data[0]) == {"left", "right"}
        seen.add(tuple(task.data[1].tolist()))
        return Update(model, 1)

    hansa.simulate(app, clients=2, rounds=1, attack="label-flip:0.5")
    assert seen == {(0, 1, 2), (2, 1, 0)}
    with pytest.raises(AppError, match="no trigger for inputs by name"):
        hansa.simulate(app, clients=2, rounds=1, attack="backdoor:0.5")


# ── engines ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SCAFFOLD = RunSpec(
    rounds=3, algorithm="scaffold", algorithm_options={"num_clients": 9}, rules=RoundRules("fraction", fraction=0.7)
)
"""With a memory, which colluders need of each other."""


def test_every_engine_sees_the_same_attack(plain: Path):
    attack = "gaussian+ipm+label-flip:0.5"

    def model(engine: EngineName, workers: int | None = None) -> hansa.Arrays:
        return hansa.simulate(plain, SCAFFOLD, clients=9, attack=attack, engine=engine, workers=workers).model

    inline = model("inline")
    assert model("processes", 2) == inline
    together = model("vectorized")
    for name, array in inline.items():
        np.testing.assert_allclose(together[name], array, atol=1e-4)
    assert inline != hansa.simulate(plain, SCAFFOLD, clients=9).model


@pytest.mark.parametrize("kind", ATTACKS)
def test_every_attack_runs_against_an_aggregator_that_keeps_updates(plain: Path, kind: str):
    result = hansa.simulate(plain, clients=7, rounds=2, aggregator="median", attack=f"{kind}:0.3")
    assert result.model_hash != hansa.simulate(plain, clients=7, rounds=2, aggregator="median").model_hash
    assert isinstance(resolve(RunSpec()).algorithm.aggregator, WeightedMean)


WIDE = PLAIN.replace("softmax_regression(6, 3)", "softmax_regression(60, 3)").replace("size=(9, 6)", "size=(9, 60)")
"""With a tensor that is large enough to travel in fewer bytes."""


@pytest.mark.parametrize("transform", some(("random-mask:share=0.5", "quantize:bits=4"), always=("quantize:bits=4",)))
@pytest.mark.parametrize("kind", ATTACKS)
def test_every_attack_runs_against_what_travels_in_fewer_bytes(
    write_app: Callable[[str], Path], kind: str, transform: str
):
    run = {"clients": 7, "rounds": 2, "transforms": [transform]}
    result = hansa.simulate(write_app(WIDE), attack=f"{kind}:0.3", **run)  # which lets nobody fail
    assert result.model_hash != hansa.simulate(write_app(WIDE), **run).model_hash
    assert all(len(done.accepted) == 7 for done in result.rounds)


def test_what_is_forged_travels_as_sparse_as_it_is(write_app: Callable[[str], Path]):
    def sent(attack: str, transform: str) -> int:
        return hansa.simulate(
            write_app(WIDE), clients=4, rounds=1, transforms=[transform], attack=attack
        ).rounds[0].upload_bytes  # fmt: skip

    assert sent("sign-flip:0.5", "top-k:share=0.1") == sent("", "top-k:share=0.1")
    assert sent("sign-flip:0.5", "quantize:bits=4") > sent("", "quantize:bits=4")
