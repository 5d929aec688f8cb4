"""FedPer, FedRep and FedBN."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Algorithm
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.fedbn import fedbn, normalization
from hansa.algorithms.fedper import fedper
from hansa.algorithms.fedrep import fedrep
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import Task, Update
from hansa.testing.federation import aggregate, play, task_of
from hansa.testing.linear import Examples, LinearTrainer, make_examples

DATA: Mapping[str, Examples] = make_examples(np.random.default_rng(4), (5, 12, 30), 2)
PRESENT = [["client-0", "client-1"], ["client-2"], ["client-1", "client-2"], list(DATA), ["client-0"]]
TRAINER = LinearTrainer(2, learning_rate=0.1, epochs=3)


def descended(weight: Array, bias: Array, client: str, *, moves: str) -> tuple[Array, Array]:
    """Three full-batch steps of least squares, in the weight, the bias, or both."""
    x, y = DATA[client]
    for _ in range(3):
        error = x @ weight + bias - y
        new = weight - 0.1 * x.T @ error / len(y), bias - 0.1 * error.mean()
        weight, bias = (new[0] if "w" in moves else weight), (new[1] if "b" in moves else bias)
    return weight, bias


def written_out(passes: list[str], *, weighted: bool) -> tuple[list[Array], dict[str, Array]]:
    """The papers' pseudo-code once more, the bias being the client's: shared weights by round, biases at the end."""
    first = TRAINER.initial_model(np.random.default_rng(0))
    shared, biases, models = first["weight"], dict[str, Array](), [first["weight"]]
    for names in PRESENT:
        ends, sizes = [], []
        for name in names:
            weight, bias = shared, biases.get(name, first["bias"])
            for moves in passes:
                weight, bias = descended(weight, bias, name, moves=moves)
            biases[name] = bias
            ends.append(weight)
            sizes.append(len(DATA[name][1]) if weighted else 1)
        shared = np.average(ends, axis=0, weights=sizes)
        models.append(shared)
    return models, biases


@pytest.mark.parametrize(
    ("make", "passes", "weighted"),
    [
        (lambda mean: fedper(mean, personal="b*"), ["wb"], True),
        (lambda mean: fedbn(mean, personal="bias"), ["wb"], False),
        (lambda mean: fedrep(mean, personal="bias"), ["b", "w"], False),
        (lambda mean: fedrep(mean, personal="x, bias", head_passes=3), ["b", "b", "b", "w"], False),
    ],
    ids=["fedper", "fedbn", "fedrep", "fedrep with three passes"],
)
def test_follows_the_paper_also_when_only_some_take_part(
    mean: WeightedMean, make: Callable[[WeightedMean], Algorithm], passes: list[str], *, weighted: bool
):
    algorithm, (models, biases) = make(mean), written_out(passes, weighted=weighted)
    first = TRAINER.initial_model(np.random.default_rng(0))
    state, kept = algorithm.init(first), dict[str, Arrays | None]()
    for names, expected in zip(PRESENT, models[1:], strict=True):
        broadcast = algorithm.broadcast(state)
        sent = {n: algorithm.client_update(TRAINER, broadcast, task_of(n, DATA, memory=kept.get(n))) for n in names}
        assert not any(update.arrays["bias"].any() for update in sent.values())  # what is personal never travels
        kept |= {name: update.memory for name, update in sent.items()}
        state = algorithm.server_update(state, aggregate(algorithm, broadcast, sent))
        np.testing.assert_allclose(state.params["weight"], expected, rtol=0, atol=1e-8)
        assert state.params["bias"].tobytes() == first["bias"].tobytes()
    for name, bias in biases.items():
        own = algorithm.personal(state.params, kept[name])
        assert list(own) == ["weight", "bias"]
        assert own["weight"].tobytes() == state.params["weight"].tobytes()
        assert own["bias"] == pytest.approx(bias)


def test_a_head_of_ones_own_fits_where_a_shared_one_does_not(mean: WeightedMean):
    # Two clients with the same slope and other intercepts: FedPer's and FedRep's losses go to 0, FedAvg's does not.
    x = np.random.default_rng(0).normal(size=(20, 1))
    data = {"ada": (x, 2 * x[:, 0] + 3), "bo": (x, 2 * x[:, 0] - 3)}
    trainer = LinearTrainer(1, learning_rate=0.2, epochs=3)
    losses = {}
    for algorithm in (fedavg(mean), fedper(mean, personal="bias"), fedrep(mean, personal="bias")):
        state, kept = algorithm.init(trainer.initial_model(np.random.default_rng(0))), dict[str, Arrays | None]()
        for _ in range(30):
            sent = {
                n: algorithm.client_update(trainer, state.params, task_of(n, data, memory=kept.get(n))) for n in data
            }
            kept |= {name: update.memory for name, update in sent.items()}
            state = algorithm.server_update(state, aggregate(algorithm, state.params, sent))
        models = {name: algorithm.personal(state.params, kept[name]) for name in data}
        losses[algorithm.name] = max(trainer.evaluate(models[n], task_of(n, data)).values["loss"] for n in data)
    assert losses["fedavg"] == pytest.approx(4.5, rel=0.1)
    assert losses["fedper"] < 1e-6
    assert losses["fedrep"] < 1e-6


def test_a_layer_of_batchnorm_is_known_by_its_running_mean():
    inner = [
        "conv.weight",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    ]
    assert normalization([*inner, "normal.weight", "norm.inner.weight"]) == frozenset(inner[1:])
    assert normalization(["weight", "running_mean", "conv.weight"]) == {"weight", "running_mean"}
    assert normalization(["weight", "bias"]) == frozenset()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda mean: fedper(mean, personal="head.*"),
            "fedper keeps some tensors .* but none of this model's are personal",
        ),
        (lambda mean: fedper(mean, personal="*"), "but all of this model's are personal: w, steps"),
        (fedbn, "fedbn keeps some tensors .* but none of this model's are personal: w, steps"),
    ],
)
def test_a_model_with_nothing_to_keep_or_to_share_is_refused(
    mean: WeightedMean, task: Callable[..., Task], make: Callable[[WeightedMean], Algorithm], said: str
):
    app = hansa.App()
    app.train(lambda model, _: Update(model, 1))
    with pytest.raises(AppError, match=said):
        make(mean).client_update(app.trainer, Arrays({"w": np.zeros(1), "steps": np.zeros(())}), task(0.0))


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (lambda model, task: Update(model, task.round), "fedrep corrects every gradient, .*: leave the tensors of"),
        (
            lambda model, task: Update({name: a + 1 for name, a in model.items()}, len([task.correction])),
            "fedrep holds some tensors still, but 'w' has changed",
        ),
        (
            lambda model, task: Update({name: a * np.nan for name, a in model.items()}, len([task.correction])),
            "fedrep holds some tensors still, but 'w' is NaN or infinite: look at the inputs",
        ),
        (lambda model, task: Update(model, len([task.correction]), memory=model), "return no memory of the app's own"),
    ],
    ids=["ignores the correction", "moves what is frozen", "trains it to NaN", "keeps a memory of its own"],
)
def test_an_app_that_does_not_fit_is_told_what_to_do(
    mean: WeightedMean, task: Callable[..., Task], train: Callable[[Arrays, Task], Update], said: str
):
    app = hansa.App()
    app.train(train)
    with pytest.raises(AppError, match=said):
        fedrep(mean, personal="b").client_update(app.trainer, Arrays({"w": np.zeros(1), "b": np.zeros(1)}), task(0.0))


@pytest.mark.parametrize("algorithm", [fedper, fedrep])
@pytest.mark.parametrize("personal", ["", " , ", 3])
def test_refuses_patterns_that_are_none(mean: WeightedMean, algorithm: Callable[..., Algorithm], personal: str):
    with pytest.raises(ConfigError, match=r"fed(per|rep): personal is .*; it must be patterns of names"):
        algorithm(mean, personal=personal)


def test_everything_is_fedavgs_where_the_personal_layer_does_not_move(mean: WeightedMean):
    # Centred data have no gradient in the bias, so that keeping it changes nothing.
    data = {name: (x - x.mean(axis=0), y - y.mean()) for name, (x, y) in DATA.items()}
    for mine, theirs in zip(
        play(fedper(mean, personal="bias"), TRAINER, data, rounds=3),
        play(fedavg(mean), TRAINER, data, rounds=3),
        strict=True,
    ):
        np.testing.assert_allclose(mine.params["weight"], theirs.params["weight"], rtol=0, atol=1e-12)
