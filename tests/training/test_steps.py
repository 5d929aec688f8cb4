"""What a step of local training has beside the optimizer's own."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402 - needs torch

from hansa.training.steps import clearer, stepper  # noqa: E402 - needs torch


def taken(step_of: Any, **settings: Any) -> tuple[list[Any], Any]:
    """Three steps of two parameters and one that has no gradient: what they are, and what is remembered of them."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(2)), torch.zeros(1)]
    first, *others = parameters
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": others, "lr": 0.3}], lr=0.1, **settings)
    step = step_of(optimizer)
    for _ in range(3):
        for parameter in parameters[:2]:
            parameter.grad = torch.randn(parameter.shape)
        step()
    remembered = [optimizer.state[p]["momentum_buffer"] for p in parameters[:2] if settings.get("momentum")]
    return [parameter.detach() for parameter in (*parameters, *remembered)], step


@pytest.mark.parametrize(
    ("settings", "is_plain"),
    [
        *(({}, True), ({"momentum": 0.9}, True), ({"weight_decay": 0.1}, True), ({"maximize": True}, False)),
        ({"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}, True),
        ({"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, True),
        ({"foreach": True}, False),
    ],
)
def test_a_step_is_that_of_the_optimizer_to_the_bit(settings: dict[str, Any], *, is_plain: bool) -> None:
    found, step = taken(stepper, **settings)
    expected, _ = taken(lambda optimizer: optimizer.step, **settings)
    assert len(found) == len(expected) == (5 if settings.get("momentum") else 3)
    assert all(map(torch.equal, found, expected))
    assert (step.__name__ == "step" and not hasattr(step, "__self__")) == is_plain


def test_who_has_hooked_on_to_the_steps_is_called_at_each() -> None:
    called = []

    def hooked(optimizer: Any) -> Any:
        optimizer.register_step_post_hook(lambda *_: called.append(1))
        return stepper(optimizer)

    taken(hooked)
    assert len(called) == 3


def test_who_has_hooked_on_to_the_steps_of_all_optimizers_is_called_too() -> None:
    called = []
    hook = register_optimizer_step_post_hook(lambda *_: called.append(1))
    try:
        taken(stepper)
    finally:
        hook.remove()
    assert len(called) == 3


def test_a_rate_in_a_tensor_of_any_shape_is_left_to_the_optimizer() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=torch.tensor([0.1]))
    assert stepper(optimizer) == optimizer.step


def test_another_device_is_left_to_the_optimizer() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1, device="meta"))])
    assert stepper(optimizer) == optimizer.step


def test_another_optimizer_steps_by_itself() -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    assert stepper(optimizer) == optimizer.step


def test_gradients_are_cleared_as_the_optimizer_clears_them() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": [parameter]} for parameter in parameters[:2]], lr=1.0)
    for parameter in parameters:
        parameter.grad = torch.ones(1)
    clearer(optimizer)()
    assert [parameter.grad for parameter in parameters] == [None, None, torch.ones(1)]


def test_an_optimizer_that_clears_in_its_own_way_does_so() -> None:
    class Counting(torch.optim.SGD):
        def zero_grad(self, *_: Any) -> None:
            raise NotImplementedError

    counting = Counting([torch.nn.Parameter(torch.zeros(1))])
    assert clearer(counting) == counting.zero_grad
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    plain.zero_grad = counting.zero_grad  # type: ignore[method-assign]
    assert clearer(plain) == counting.zero_grad
