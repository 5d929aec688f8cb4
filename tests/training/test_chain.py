"""Linear layers and cross-entropy by hand, against torch's automatic differentiation."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from hansa.training.chain import Chain, Layer, chain_of, is_cross_entropy  # noqa: E402 - needs torch

nn, functional = torch.nn, torch.nn.functional
ROWS, SIZE, FEATURES, CLASSES = 9, 5, 6, 3


def deep() -> Any:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(FEATURES, 8), nn.ReLU(inplace=True), nn.Linear(8, 7, bias=False), nn.Linear(7, CLASSES)
    )


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.second(torch.relu(self.first(x)))


CHAINS = {"linear": lambda: nn.Linear(FEATURES, CLASSES), "deep": deep, "functions": Functions}


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
def test_gradients_are_those_of_automatic_differentiation(make: Any) -> None:
    torch.manual_seed(0)
    module, inputs = make(), torch.randn(ROWS, SIZE, FEATURES)
    targets = torch.randint(0, CLASSES, (ROWS * SIZE,))
    weights = torch.rand(ROWS, SIZE)
    layers = chain_of(module, inputs[0])
    assert layers is not None
    stacks = {name: nn.Parameter(torch.randn(ROWS, *p.shape)) for name, p in module.named_parameters()}
    means = Chain(layers).differentiate(stacks, inputs, targets, weights)
    for row in range(ROWS):
        own = {name: stack.detach()[row].clone().requires_grad_() for name, stack in stacks.items()}
        outputs = torch.func.functional_call(module, own, (inputs[row],))
        losses = functional.cross_entropy(outputs, targets.view(ROWS, SIZE)[row], reduction="none")
        loss = (losses * weights[row]).sum()
        torch.testing.assert_close(means[row], loss.detach())
        for (name, stack), gradient in zip(stacks.items(), torch.autograd.grad(loss, own.values()), strict=True):
            torch.testing.assert_close(stack.grad[row], gradient, msg=name)


def test_logits_of_any_size_have_finite_losses() -> None:
    """As with log_softmax: the largest of each example is taken off first."""
    stacks = {"weight": nn.Parameter(torch.tensor([[[1e4], [-1e4]]]))}
    means = Chain([Layer("weight", None, rectified=False)]).differentiate(
        stacks, torch.ones(1, 1, 1), torch.tensor([0]), torch.ones(1, 1)
    )
    assert means.tolist() == [0.0]
    assert stacks["weight"].grad.tolist() == [[[0.0], [0.0]]]


def test_numbers_that_are_none_are_no_warning() -> None:
    """Tests end at a warning."""
    stack = {"weight": nn.Parameter(torch.full((1, CLASSES, 1), 1e30))}
    inputs = torch.tensor([[[torch.nan], [1e30]]])
    means = Chain([Layer("weight", None, rectified=False)]).differentiate(
        stack, inputs, torch.tensor([0, 1]), torch.ones(1, 2)
    )
    assert means.isnan().all()


def test_what_is_filled_up_has_no_part_in_a_gradient() -> None:
    torch.manual_seed(1)
    stack = {"weight": nn.Parameter(torch.randn(1, CLASSES, FEATURES))}
    chain, inputs, targets = Chain([Layer("weight", None, rectified=False)]), torch.randn(1, 2, FEATURES), [0, 1]
    chain.differentiate(stack, inputs, torch.tensor(targets), torch.tensor([[1.0, 0.0]]))
    filled = stack["weight"].grad.clone()
    chain.differentiate(stack, inputs[:, :1], torch.tensor(targets[:1]), torch.ones(1, 1))
    torch.testing.assert_close(stack["weight"].grad, filled)


class Skipping(nn.Linear):
    def forward(self, x: Any) -> Any:
        return super().forward(x) + x[:, :CLASSES]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(FEATURES, FEATURES)

    def forward(self, x: Any) -> Any:
        return self.one(self.one(x))


class Unused(nn.Linear):
    def __init__(self) -> None:
        super().__init__(FEATURES, CLASSES)
        self.more = nn.Parameter(torch.zeros(2))


def frozen() -> Any:
    module = deep()
    module[1].weight.requires_grad_(False)
    return module


@pytest.mark.parametrize(
    "make",
    [
        lambda: Skipping(FEATURES, CLASSES),
        Twice,
        Unused,
        frozen,
        lambda: nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.Sigmoid()),
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, CLASSES)),
        lambda: nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.ReLU()),
        nn.Identity,
    ],
)
def test_another_module_is_no_chain(make: Any) -> None:
    assert chain_of(make(), torch.randn(2, FEATURES)) is None


def test_layers_over_more_than_a_row_of_features_are_no_chain() -> None:
    assert chain_of(nn.Linear(FEATURES, CLASSES), torch.randn(2, 4, FEATURES)) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_numpy_has_no_products_of_is_no_chain(dtype: Any) -> None:
    assert chain_of(nn.Linear(FEATURES, CLASSES).to(dtype), torch.randn(2, FEATURES).to(dtype)) is None


@pytest.mark.parametrize("hidden", [64, 9001])  # products that NumPy does, and those that are left to PyTorch
def test_bits_of_a_row_do_not_depend_on_the_others(hidden: int) -> None:
    torch.manual_seed(2)
    layers = [Layer("0", "1", rectified=True), Layer("2", None, rectified=False)]
    shapes = {"0": (ROWS, hidden, FEATURES), "1": (ROWS, hidden), "2": (ROWS, CLASSES, hidden)}
    stacks = {name: torch.randn(shape) for name, shape in shapes.items()}
    inputs, targets = torch.randn(ROWS, SIZE, FEATURES), torch.randint(0, CLASSES, (ROWS, SIZE))

    def gradients(rows: slice) -> list[Any]:
        own = {name: nn.Parameter(stack[rows].clone()) for name, stack in stacks.items()}
        weights = torch.full((len(targets[rows]), SIZE), 1 / SIZE)
        means = Chain(layers).differentiate(own, inputs[rows], targets[rows].reshape(-1), weights)
        return [means, *(parameter.grad for parameter in own.values())]

    together = gradients(slice(0, ROWS))
    for row in range(ROWS):
        for one, of_all in zip(gradients(slice(row, row + 1)), together, strict=True):
            assert torch.equal(one[0], of_all[row])


def test_only_the_plain_cross_entropy_is_meant() -> None:
    assert is_cross_entropy(functional.cross_entropy)
    assert is_cross_entropy(nn.CrossEntropyLoss())
    others = (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(weight=torch.ones(3)), nn.NLLLoss())
    assert not any(map(is_cross_entropy, (*others, nn.CrossEntropyLoss(reduction="sum"), functional.mse_loss)))
