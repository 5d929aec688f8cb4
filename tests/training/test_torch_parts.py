"""Parts of cut networks in PyTorch, against the whole network."""

from typing import Any

import numpy as np
import pytest

import hansa
from hansa.distributed import Records, complete, dsgd, hubs, run, split_learning, splitfed, star, vertical, wheel
from hansa.errors import AppError
from hansa.messages import ClientInfo
from hansa.run import derive_rng

torch = pytest.importorskip("torch")
from hansa.training.tensors import load_into_module  # noqa: E402 - needs torch
from hansa.training.torch import TorchTrainer  # noqa: E402 - the same
from hansa.training.torch_parts import torch_parts, vertical_torch_parts  # noqa: E402 - the same

nn = torch.nn
RNG = np.random.default_rng(8)
X = RNG.normal(size=(2, 12, 4)).astype(np.float32)
Y = RNG.integers(0, 3, (2, 12))


def share(client: ClientInfo) -> tuple[Any, Any]:
    return X[client.index], Y[client.index]


def bottom() -> Any:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.0))


def top() -> Any:
    return nn.Linear(6, 3)


def adam(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, lr=0.05)


PARTS = torch_parts(bottom, top, nn.functional.cross_entropy, adam)


@pytest.mark.parametrize(
    ("loss", "outputs", "x", "y", "said"),
    [
        ("mse_loss", 1, X[0], X[0][:, 0], r"the loss takes each output with every target: give both the same shape"),
        ("cross_entropy", 2, X[0], Y[0], r"targets are classes from 0 to 2, and the module has no output for all"),
        ("cross_entropy", 3, Y, Y[0], r"inputs are int64, and a layer of the module takes floats"),
        (lambda outputs, _: outputs, 3, X[0], Y[0], r"the loss is a tensor of shape \(12, 3\)"),
    ],
)
def test_examples_that_do_not_fit_the_parts_are_told_as_a_trainer_tells_them(
    loss: Any, outputs: int, x: Any, y: Any, said: str
) -> None:
    named = getattr(nn.functional, loss) if isinstance(loss, str) else loss
    parts = torch_parts(bottom, lambda: nn.Linear(6, outputs), named, adam)
    with pytest.raises(AppError, match=said):
        run(
            split_learning(parts, lambda _: (x[: len(y)] if len(x) == len(y) else np.tile(x[0][:4], (12, 1)), y)),
            wheel(2),
        )


def test_decentralized_sgd_of_a_module_is_gradient_descent_on_all_examples_where_all_hear_all() -> None:
    def sgd(parameters: Any) -> Any:
        return torch.optim.SGD(parameters, lr=0.2)

    app = hansa.App(trainer=TorchTrainer(lambda: nn.Linear(4, 3), nn.functional.cross_entropy, sgd))
    app.data(share)
    outcome = run(dsgd(app, rounds=5, order="adapt-then-combine"), complete(2), seed=6)
    module = nn.Linear(4, 3)
    load_into_module(module, app.trainer.initial_model(derive_rng(6, "init")))
    optimizer = sgd(module.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        x, y = torch.from_numpy(X.reshape(24, 4)), torch.from_numpy(Y.reshape(24))
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    for result in outcome.results:
        for name, tensor in module.state_dict().items():
            assert np.allclose(result.model[name], tensor.numpy(), atol=1e-6)


def test_split_learning_with_one_client_is_the_whole_module_with_one_optimizer() -> None:
    results = run(split_learning(PARTS, share, rounds=2, batch_size=5), wheel(2), seed=1).results
    lower, upper = bottom(), top()
    load_into_module(lower, PARTS.bottom(derive_rng(1, "init", "bottom")).arrays())
    load_into_module(upper, PARTS.top(derive_rng(1, "init", "top")).arrays())
    whole = nn.Sequential(lower, upper)
    optimizer = adam(whole.parameters())
    for number in range(1, 3):
        order = derive_rng(1, "train", number, "client-0").permutation(12)
        for rows in (order[:5], order[5:10], order[10:]):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(whole(torch.from_numpy(X[0][rows])), torch.from_numpy(Y[0][rows]))
            loss.backward()
            optimizer.step()
    for module, result in ((lower, results[1]), (upper, results[0])):
        for name, tensor in module.state_dict().items():
            assert np.allclose(result.model[name], tensor.numpy(), atol=1e-6)


def test_splitfed_averages_what_two_clients_have_trained_apart() -> None:
    fed = run(splitfed(PARTS, share, rounds=1), hubs(2, 4)).results
    alone = [
        run(splitfed(PARTS, lambda _, i=i: (X[i], Y[i]), rounds=1), hubs(2, 3)).results for i in (0, 1)
    ]  # the same first models: they are drawn from the seed
    for worker in (0, 1):
        for name, array in fed[worker].model.items():
            mean = (alone[0][worker].model[name] + alone[1][worker].model[name]) / 2
            assert np.allclose(array, mean, atol=1e-6)


def test_dropout_depends_on_the_part_alone() -> None:
    parts = torch_parts(lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5)), top, nn.functional.cross_entropy, adam)
    program = split_learning(parts, share, rounds=2, batch_size=5)
    first = run(program, wheel(3), seed=4).results
    torch.manual_seed(99)
    assert [result.model for result in run(program, wheel(3), seed=4).results] == [result.model for result in first]


def test_vertical_modules_learn_and_predict_in_evaluation_mode() -> None:
    parts = vertical_torch_parts(
        lambda _: nn.Sequential(nn.Linear(2, 5), nn.Tanh()), lambda: nn.Linear(10, 3), nn.functional.cross_entropy, adam
    )

    def records(client: ClientInfo) -> Records:
        x = X[0][:, 2 * client.index : 2 * client.index + 2]
        return Records(range(12), x, Y[0] if client.index == 0 else None)

    results = run(vertical(parts, records, salt=b"0" * 16, epochs=20), star(2)).results
    assert results[0].losses[-1] < 0.7 * results[0].losses[0]
    made = parts.bottom(1, np.random.default_rng(0))
    made.load(results[1].bottom)
    assert made.predict(X[0][:, 2:]).shape == (12, 5)
