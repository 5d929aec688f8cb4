"""Faster routines for layers of PyTorch: the same function, and the module is left as it was."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import slow

from hansa.arrays import Arrays
from hansa.testing.federation import task_of

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402 - needs torch

from hansa.training import routines  # noqa: E402 - needs torch
from hansa.training.torch import TorchTrainer  # noqa: E402 - needs torch

nn = torch.nn

pytestmark = pytest.mark.skipif(routines._PRODUCT is None, reason="this PyTorch is built without oneDNN")


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the inputs of each product by oneDNN."""
    seen: list[tuple[int, ...]] = []
    product = routines._PRODUCT

    def noted(inputs: Any, *rest: Any) -> Any:
        seen.append(tuple(inputs.shape))
        return product(inputs, *rest)

    monkeypatch.setattr(routines, "_PRODUCT", noted)
    return seen


def drawn(*shape: int) -> Any:
    return torch.from_numpy(np.random.default_rng(shape).standard_normal(shape, np.float32))


def derivatives(layer: Any, inputs: Any, order: int) -> list[Any]:
    """Outputs, and gradients of the given order of a function of them: of the inputs and of each parameter."""
    inputs = inputs.clone().requires_grad_()
    wanted = [inputs, *layer.parameters()]
    outputs = layer(inputs)
    found = [outputs]
    value = outputs.square().mean() + outputs[..., 0].sum()
    for _ in range(order):
        gradients = torch.autograd.grad(value, wanted, create_graph=True)
        found += gradients
        value = sum(gradient.square().sum() for gradient in gradients)
    return found


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("shape", [(24, 512), (3, 8, 512)], ids=["rows", "sequences"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_and_its_gradients_are_those_of_torch(
    products: list[tuple[int, ...]], shape: tuple[int, ...], order: int, *, bias: bool
) -> None:
    layer, inputs = nn.Linear(512, 256, bias=bias), drawn(*shape)
    expected = derivatives(layer, inputs, order)
    assert products == []
    with routines.Quick(layer):
        found = derivatives(layer, inputs, order)
    assert products[:3] == [(24, 512), (24, 256), (256, 24)]  # outputs; gradients of the inputs and of the weight
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.detach().abs().max()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["inputs", "weight", "bias"])
def test_what_is_not_finite_stays_where_torch_has_it(where: str, value: float) -> None:
    layer, inputs = nn.Linear(512, 256), drawn(24, 512)
    spoiled = inputs if where == "inputs" else getattr(layer, where).detach()
    spoiled.view(-1)[7] = value
    expected = derivatives(layer, inputs, 1)
    with routines.Quick(layer):
        found = derivatives(layer, inputs, 1)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        assert torch.equal(one.isposinf(), other.isposinf())
        assert torch.equal(one.isneginf(), other.isneginf())


@pytest.mark.parametrize(
    ("features", "rows", "prepare"),
    [
        (512, 4, lambda layer: layer),  # too few products to pay
        (2048, 3, lambda layer: layer),  # too few rows
        (512, 24, lambda layer: layer.double()),
    ],
    ids=["small", "rows", "float64"],
)
def test_others_are_torchs_own_to_the_bit(
    products: list[tuple[int, ...]], features: int, rows: int, prepare: Callable[[Any], Any]
) -> None:
    layer = prepare(nn.Linear(features, 256))
    inputs = drawn(rows, features).to(layer.weight.dtype)
    with routines.Quick(layer):
        found = layer(inputs)
    assert products == []
    assert torch.equal(found, layer(inputs))


def test_autocast_vmap_and_wrong_shapes_find_torchs_own_layer(products: list[tuple[int, ...]]) -> None:
    layer, inputs = nn.Linear(512, 256), drawn(24, 512)
    with routines.Quick(layer):
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(inputs).dtype == torch.bfloat16
        per_row = torch.func.vmap(torch.func.grad(lambda x: layer(x).sum()))(inputs[:, None].expand(24, 4, 512))
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            layer(drawn(24, 500))
    assert per_row.shape == (24, 4, 512)
    assert products == []


def test_a_pools_gradient_comes_with_its_channels_last_and_is_the_same_to_the_bit() -> None:
    orders = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.max_pool2d_with_indices_backward.default:
                orders.append(args[0].stride())
            return func(*args, **(kwargs or {}))

    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 7 * 7, 4))
    module.to(memory_format=torch.channels_last)
    inputs = drawn(5, 3, 16, 16).to(memory_format=torch.channels_last)

    def gradients() -> list[Any]:
        with Watch():
            return list(torch.autograd.grad(module(inputs).square().sum(), list(module.parameters())))

    expected = gradients()
    with routines.Quick(module):
        found = gradients()
    assert orders == [(392, 49, 7, 1), (392, 1, 56, 8)]
    assert all(map(torch.equal, found, expected))


def test_a_trainer_uses_them_in_its_passes_and_leaves_its_module_as_it_was(products: list[tuple[int, ...]]) -> None:
    modules = []

    def built() -> Any:
        modules.append(nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 2)))
        return modules[-1]

    trainer = TorchTrainer(built, nn.functional.cross_entropy, torch.optim.SGD, batch_size=24)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((48, 512), np.float32), rng.integers(0, 2, 48)
    model = trainer.initial_model(rng)
    updates = [trainer.fit(model, task_of("a", {"a": (x, y)})) for _ in range(2)]
    assert len(products) == 2 * 2 * 2  # two steps each; of the first layer's input no gradient is asked
    assert updates[0].arrays == updates[1].arrays
    assert isinstance(model, Arrays)
    assert all("forward" not in vars(layer) for module in modules for layer in module.modules())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_what_was_compiled_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(512, 256), torch.jit.script(nn.Linear(256, 256)))
    with routines.Quick(module):
        assert "forward" not in vars(module[0])


@pytest.mark.parametrize("optimizer", ["SGD", slow("Adam")])
def test_an_optimizer_is_made_without_the_compiler_which_works_as_ever_afterwards(optimizer: str) -> None:
    """And compiles no loss that is only looked at: it is run as it was written."""
    program = f"""
import sys, torch
from hansa.training.pairs import takes_shares
from hansa.training.routines import without_compiler
parameters = [torch.nn.Parameter(torch.ones(2))]
with without_compiler():
    made = torch.optim.{optimizer}(parameters, lr=0.5)
assert "torch._dynamo" not in sys.modules
assert not vars(torch.optim.Optimizer.add_param_group.__wrapped__).keys() - {{"__module__", "__doc__"}}
parameters[0].grad = torch.ones(2)
made.step(), made.zero_grad()
assert torch.allclose(parameters[0], torch.full((2,), 0.5))
other = torch.optim.{optimizer}(parameters, lr=0.5)
assert torch._dynamo.is_compiling() is False
assert torch.equal(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)), torch.full((2,), 2.0))
with without_compiler():
    torch.optim.{optimizer}(parameters, lr=0.5)
loss = lambda outputs, targets: torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets)
assert takes_shares(torch.compile(loss, backend=lambda *_: 1 / 0, fullgraph=True), torch.zeros(3), torch.ones(3))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_gradient_descent_needs_no_compiler() -> None:
    program = """
import sys, numpy as np, torch
from hansa.testing.federation import task_of
from hansa.training.torch import TorchTrainer
descent = lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
trainer = TorchTrainer(lambda: torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(), descent, batch_size=4)
data = np.ones((8, 3), np.float32), np.zeros(8, np.int64)
trainer.fit(trainer.initial_model(np.random.default_rng(0)), task_of("a", {"a": data}))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
