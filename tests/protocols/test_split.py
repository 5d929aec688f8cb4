"""Split learning and SplitFed against the whole network in one place."""

from typing import Any

import numpy as np
import pytest

import hansa
from hansa.distributed import Parts, SplitBottom, SplitTop, hubs, ring, run, split_learning, splitfed, star, wheel
from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import ClientInfo
from hansa.protocols.parts import batches, examples_of
from hansa.run import derive_rng
from hansa.training.numpy import NumpyTrainer, mlp
from hansa.training.numpy_parts import mlp_parts

SIZES, RATE, BATCH = (6, 8, 5, 3), 0.2, 7
PARTS = mlp_parts(SIZES, 2, learning_rate=RATE, dtype=np.float64)
RNG = np.random.default_rng(2)
OWNED = (20, 33, 15)
X = [RNG.normal(size=(n, 6)) for n in OWNED]
Y = [RNG.integers(0, 3, n) for n in OWNED]


def share(client: ClientInfo) -> tuple[Any, Any]:
    return X[client.index], Y[client.index]


def start(parts: Parts, seed: int) -> dict[str, Any]:
    """The whole network as its parts begin."""
    bottom = parts.bottom(derive_rng(seed, "init", "bottom")).arrays()
    return {**bottom, **parts.top(derive_rng(seed, "init", "top")).arrays()}


def centralized(clients: int, rounds: int, seed: int) -> dict[str, Any]:
    """SGD of the whole network, with one client's examples after the other's."""
    params, model = start(PARTS, seed), mlp(SIZES, np.float64)
    for number in range(1, rounds + 1):
        for i in range(clients):
            for rows in batches(len(X[i]), BATCH, derive_rng(seed, "train", number, f"client-{i}")):
                _, gradient = model.loss_and_gradient(params, X[i][rows], Y[i][rows])
                params = {name: params[name] - RATE * gradient[name] for name in params}
    return params


def together(results: Any) -> dict[str, Any]:
    tops = [result.model for result in results if isinstance(result, SplitTop)]
    bottoms = [result.model for result in results if isinstance(result, SplitBottom)]
    assert all(bottom == bottoms[0] for bottom in bottoms)
    return {**bottoms[0], **tops[0]}


@pytest.mark.parametrize("clients", [1, 2, 3])
def test_split_learning_is_centralized_training_of_the_whole_network(clients: int) -> None:
    outcome = run(split_learning(PARTS, share, rounds=3, batch_size=BATCH), wheel(1 + clients), seed=5)
    expected = centralized(clients, 3, 5)
    found = together(outcome.results)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert np.allclose(found[name], array, atol=1e-12)


def test_it_learns_and_reports_the_loss_of_each_round() -> None:
    losses = run(split_learning(PARTS, share, rounds=40, batch_size=BATCH), wheel(4)).results[0].losses
    assert losses.shape == (40,)
    assert losses[0] == pytest.approx(np.log(3), abs=0.7)
    assert losses[-1] < 0.7 * losses[0]


def test_splitfed_is_fedavg_of_the_whole_network() -> None:
    outcome = run(splitfed(PARTS, share, rounds=3, epochs=2, batch_size=BATCH), hubs(2, 5), seed=5)
    app = hansa.App(trainer=NumpyTrainer(mlp(SIZES, np.float64), RATE, BATCH, epochs=2))
    app.data(share)
    simulated = hansa.simulate(app, clients=3, rounds=3, seed=5, initial_model=start(PARTS, 5))
    found = together(outcome.results)
    for name, array in simulated.model.items():
        assert np.allclose(found[name], array, atol=1e-8)


def test_splitfed_of_one_client_is_split_learning() -> None:
    split = run(split_learning(PARTS, share, rounds=2, batch_size=BATCH), wheel(2)).results
    fed = run(splitfed(PARTS, share, rounds=2, batch_size=BATCH), hubs(2, 3)).results
    for name, array in together(split).items():
        assert np.allclose(together(fed)[name], array, atol=1e-12)


def test_the_server_of_bottoms_never_hears_an_activation_and_the_main_server_no_bottom() -> None:
    outcome = run(splitfed(PARTS, share, rounds=2, batch_size=None), hubs(2, 5))
    main, fed = outcome.messages[:2]
    assert (main, fed) == (2 * 3, 3 * 3)  # a slope for each batch; a bottom to each client at each round and at the end


def test_wrong_data_sizes_topologies_and_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size is 0"):
        split_learning(PARTS, share, batch_size=0)
    with pytest.raises(ConfigError, match=r"rounds is 1.5"):
        splitfed(PARTS, share, rounds=1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs a server and a client"):
        run(split_learning(PARTS, share), ring(1))
    with pytest.raises(ConfigError, match="two servers and a client"):
        run(splitfed(PARTS, share), star(2))
    with pytest.raises(InputError, match="worker 2 receives from worker 1, who is no neighbour"):
        run(split_learning(PARTS, share), star(4))
    with pytest.raises(AppError, match="the data of client-0 must be a tuple of two arrays"):
        examples_of([1], "client-0")
    with pytest.raises(InputError, match="client-0 has 2 inputs and 3 labels"):
        examples_of((np.zeros(2), np.zeros(3)), "client-0")
    with pytest.raises(ConfigError, match="cut is 3"):
        mlp_parts(SIZES, 3, learning_rate=0.1)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (X[0], Y[0] - 1, "y has classes from -1 to 1; this model has 3"),
        (X[0], Y[0][:, None], r"y has the shape \(20, 1\); this model takes \(n,\)"),
        (X[0][:, :5], Y[0], r"inputs have the shape \(20, 5\); this part takes \(n, 6\)"),
        (np.full_like(X[0], np.nan), Y[0], "client-0 has inputs that are not finite"),
    ],
)
@pytest.mark.parametrize(("protocol", "topology"), [(split_learning, wheel(2)), (splitfed, hubs(2, 3))])
def test_examples_that_would_teach_something_else_are_refused(
    protocol: Any, topology: Any, x: Any, y: Any, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run(protocol(PARTS, lambda _: (x, y)), topology)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_a_loss_that_is_no_number_ends_the_training() -> None:
    wild = mlp_parts(SIZES, 2, learning_rate=1e300, dtype=np.float64)
    with pytest.raises(AppError, match="a batch of worker 1 has the loss nan, with which nothing is learnt"):
        run(split_learning(wild, share, rounds=3), wheel(2))
