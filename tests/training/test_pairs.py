"""Outputs and targets that do not belong together are told, where PyTorch would go on or say little."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hansa.errors import AppError, InputError
from hansa.testing.federation import task_of

torch = pytest.importorskip("torch")
from hansa.training.pairs import check_are_pairs  # noqa: E402 - needs torch
from hansa.training.torch import TorchTrainer, accuracy  # noqa: E402 - needs torch
from hansa.training.torch_defaults import loss_by_targets, torch_trainer  # noqa: E402 - needs torch

nn = torch.nn
RNG = np.random.default_rng(1)
X = RNG.standard_normal((30, 6)).astype(np.float32)
SUMS = X.sum(1)


def trainer(make: Callable[[], Any], loss: Any = loss_by_targets, **more: Any) -> TorchTrainer:
    return TorchTrainer(make, loss, lambda parameters: torch.optim.SGD(parameters, lr=0.1), **more)


def trained(make: Callable[[], Any], x: Any, y: Any, loss: Any = loss_by_targets) -> dict[str, float]:
    """The losses of training and of evaluation afterwards, and the accuracy where there is one."""
    of = trainer(make, loss)
    update = of.fit(of.initial_model(np.random.default_rng(0)), task_of("ada", {"ada": (x, y)}))
    return dict(of.evaluate(update.arrays, task_of("ada", {"ada": (x, y)})).values) | {"train": update.metrics["loss"]}


def one() -> Any:
    return nn.Linear(6, 1)


@pytest.mark.parametrize("targets", [RNG.poisson(20, 30), np.where(SUMS > 0, 1, -1)], ids=["counts", "signs"])
def test_whole_numbers_that_are_no_answers_of_one_logit_are_not_learnt_as_such(targets: Any) -> None:
    with pytest.raises(AppError, match="give the targets as floats for a regression"):
        trained(one, X, targets)


@pytest.mark.parametrize("loss", [nn.functional.mse_loss, lambda outputs, targets: (outputs - targets).abs().mean()])
def test_a_loss_that_takes_each_output_with_every_target_is_refused(loss: Any) -> None:
    with pytest.raises(AppError, match=r"shape \(30, 1\) and the targets \(30,\), so that the loss takes each output"):
        trained(one, X, SUMS, loss)
    with pytest.raises(AppError, match=r"shape \(30,\) and the targets \(30, 1\)"):
        trained(lambda: nn.Sequential(one(), nn.Flatten(0)), X, SUMS[:, None], loss)
    fitting = trained(one, X, SUMS, lambda outputs, targets: nn.functional.mse_loss(outputs[:, 0], targets))
    assert fitting == trained(one, X, SUMS[:, None], nn.functional.mse_loss) == trained(one, X, SUMS)


@pytest.mark.parametrize(
    "loss",
    [
        lambda outputs, targets: nn.functional.mse_loss(outputs, targets[:, None]),
        lambda outputs, targets: (outputs - targets[:, None]).abs().sum(),
        lambda outputs, targets: nn.functional.huber_loss(outputs[..., 0], targets),
        lambda outputs, targets: nn.functional.mse_loss(outputs.sum(-1), targets + torch.randn_like(targets)),
    ],
    ids=["targets get an axis", "a sum", "outputs lose an axis", "drawn"],
)
@pytest.mark.parametrize("targets", [SUMS, np.sort(SUMS), np.ones_like(SUMS)], ids=["any", "sorted", "alike"])
def test_a_loss_that_brings_outputs_and_targets_to_one_shape_is_taken(loss: Any, targets: Any) -> None:
    torch.manual_seed(0)
    check_are_pairs(loss, torch.linspace(-1, 1, 30)[:, None], torch.from_numpy(targets))
    drawn = torch.randn(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.randn(1))


SIGNS = np.where(SUMS > 0, 1, -1).astype(np.float32)[:, None]


@pytest.mark.parametrize(
    "loss",
    [
        nn.BCEWithLogitsLoss(),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])),
        lambda outputs, targets: nn.functional.binary_cross_entropy(outputs.sigmoid(), targets),
        lambda outputs, targets: nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], targets[:, 0]),
    ],
)
def test_labels_of_which_a_binary_cross_entropy_is_none_are_refused_in_whichever_batch(loss: Any) -> None:
    of = trainer(one, loss, batch_size=1)
    model = of.initial_model(np.random.default_rng(0))
    for work in (of.fit, of.gradient, of.evaluate):
        with pytest.raises(
            AppError, match=r"from 0 to 1, and these go from -1 to .*\(y \+ 1\) / 2 for labels -1 and 1"
        ):
            work(model, task_of("ada", {"ada": (X, SIGNS)}))
    ones = task_of("ada", {"ada": (X, np.ones_like(SIGNS))})
    together = of.vectorized(model, ones)
    assert not isinstance(together, str)
    together.fit([model], [ones])
    with pytest.raises(InputError, match="below 0 or above 1"):
        together.fit([model], [task_of("ada", {"ada": (X, SIGNS)})])


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, y: nn.functional.binary_cross_entropy_with_logits(o, (y + 1) / 2),
        lambda o, y: nn.functional.binary_cross_entropy_with_logits(o, y, weight=(y >= 0).float()),
        lambda o, y: nn.functional.binary_cross_entropy_with_logits(o, y, reduction="none")[y >= 0].mean(),
        nn.SoftMarginLoss(),
        nn.MSELoss(),
        lambda o, y: torch.vmap(nn.functional.binary_cross_entropy_with_logits)(o, (y + 1) / 2).mean(),
    ],
    ids=["moved", "weighted", "masked", "margin", "squares", "mapped"],
)
def test_labels_below_0_that_a_loss_knows_are_learnt(loss: Any) -> None:
    losses = trained(one, X, SIGNS, loss)
    assert losses["loss"] < losses["train"]


def test_a_loss_that_changes_what_it_is_given_is_not_given_it_twice() -> None:
    def in_place(outputs: Any, targets: Any) -> Any:
        return nn.functional.mse_loss(outputs.sigmoid_(), targets.mul_(2))

    plain = trained(one, X, SIGNS, lambda outputs, targets: nn.functional.mse_loss(outputs.sigmoid(), targets * 2))
    assert trained(one, X, SIGNS.copy(), in_place) == plain


def test_whole_numbers_for_a_loss_of_floats_are_told() -> None:
    for loss in (nn.BCEWithLogitsLoss(), nn.HuberLoss()):
        with pytest.raises(AppError, match="targets are whole numbers, and the loss takes floats"):
            trained(one, X, (SIGNS > 0).astype(np.int64), loss)


def test_accuracy_is_of_one_logit_and_of_classes_second_or_last_and_leaves_out_what_is_below_0() -> None:
    logits = torch.tensor([[3.0], [-1.0], [2.0], [-4.0]])
    assert float(accuracy(logits, torch.tensor([1, 0, 0, 0]))) == 0.75
    assert float(accuracy(logits, torch.tensor([1, 0, -1, -100]))) == 1
    assert float(accuracy(logits, torch.tensor([1, -1, -1, -1]))) == 0.75  # a label of its own where no 0 is
    words = torch.eye(3)[torch.tensor([[0, 1], [2, 2]])]  # (n, length, classes)
    targets = torch.tensor([[0, 2], [2, -100]])
    assert float(accuracy(words, targets)) == float(accuracy(words.movedim(-1, 1), targets)) == 2 / 3
    assert float(accuracy(words, torch.full((2, 2), -100))) == 0


def test_the_default_loss_of_a_sequence_is_that_of_its_words() -> None:
    outputs, targets = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20).view(4, 5) % 3
    found = loss_by_targets(outputs, targets)
    assert torch.allclose(found, nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten()))
    for function in (loss_by_targets, accuracy):
        with pytest.raises(AppError, match="along the second axis or the last one, which cannot be told"):
            function(torch.zeros(2, 5, 5), torch.zeros(2, 5, dtype=torch.int64))
    square, words = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(1)), torch.arange(10).view(2, 5) % 5
    last = functools.partial(accuracy, classes=-1)
    assert float(last(square, words)) == float(accuracy(square.flatten(0, 1), words.flatten()))
    assert float(accuracy(square.mT, words, classes=1)) == float(last(square, words))
    expected = nn.functional.cross_entropy(square.flatten(0, 1), words.flatten())
    assert torch.allclose(loss_by_targets(square, words, classes=-1), expected)


def test_outputs_that_have_no_place_for_targets_are_told_by_their_shapes() -> None:
    with pytest.raises(AppError, match=r"\(30, 3\) and the targets \(30,\): to numbers belong as many outputs"):
        trained(lambda: nn.Linear(6, 3), X, SUMS)
    with pytest.raises(AppError, match="returns a tuple, neither a tensor nor something with logits: give a loss"):
        loss_by_targets((torch.zeros(2), torch.zeros(2)), torch.zeros(2))
    with pytest.raises(AppError, match="metrics of your own"):
        accuracy((torch.zeros(2), torch.zeros(2)), torch.zeros(2))


@pytest.mark.parametrize(
    ("make", "x", "y", "said"),
    [
        (lambda: nn.Linear(6, 3), X, np.arange(30) % 3 + 1, "classes from 1 to 3, .* give it 4 outputs"),
        (lambda: nn.Linear(6, 3), X.astype(np.uint8), np.arange(30) % 3, "inputs are uint8, .* give them as float32"),
        (lambda: nn.Embedding(5, 3), np.arange(30) % 6, np.arange(30) % 3, "from 0 to 5, .* give it 6 rows"),
        (lambda: nn.Embedding(5, 3), np.arange(30.0) % 5, np.arange(30) % 3, "an embedding takes whole numbers"),
    ],
    ids=["labels", "bytes", "words", "floats"],
)
def test_what_pytorch_refuses_is_told_with_its_remedy(make: Any, x: Any, y: Any, said: str) -> None:
    of = trainer(make)
    task, model = task_of("ada", {"ada": (x, y)}), of.initial_model(np.random.default_rng(0))
    for work in (of.fit, of.gradient, of.evaluate):
        with pytest.raises(AppError, match=said):
            work(model, task)


def test_what_is_refused_for_another_reason_keeps_its_error_and_tells_the_shapes() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied") as raised:
        trained(lambda: nn.Linear(5, 3), X, np.arange(30) % 3)
    noted = "hansa: in a batch of inputs, float32 of shape (30, 6), and targets, int64 of shape (30,)"
    assert noted in raised.value.__notes__


def test_what_a_loss_says_of_targets_is_not_laid_to_the_words_before_them() -> None:
    make = lambda: nn.Sequential(nn.Embedding(9, 1), nn.Flatten(), nn.Linear(5, 1), nn.Flatten(0))  # noqa: E731 - one line
    with pytest.raises(AppError, match="targets are whole numbers, and the loss takes floats"):
        trained(make, np.ones((30, 5), np.int64), np.arange(30) % 2, nn.functional.binary_cross_entropy_with_logits)


def test_inputs_and_targets_that_are_no_numbers_are_told_by_their_kinds() -> None:
    with pytest.raises(AppError, match="inputs float32 and targets <U1 cannot be tensors: give numbers"):
        trained(lambda: nn.Linear(6, 2), X, np.array(["a", "b"])[np.arange(30) % 2])


def test_a_module_that_names_its_tensors_anew_each_time_is_told() -> None:
    built = 0

    def make() -> Any:
        nonlocal built
        built += 1
        return nn.ModuleDict({f"dense_{built}": nn.Linear(6, 2)})

    with pytest.raises(AppError, match=r"'dense_1.weight' and 'dense_2.weight': name its layers"):
        trained(make, X, np.arange(30) % 2)


def test_a_keras_model_alone_is_refused_because_it_would_not_know_that_it_trains() -> None:
    like_keras = type("Sequential", (nn.Linear,), {"__module__": "keras.src.models.sequential"})
    with pytest.raises(AppError, match=r"net\(x, training=self.training\)"):
        trained(lambda: like_keras(6, 2), X, np.arange(30) % 2)


def classes() -> Any:
    return nn.Linear(6, 2)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (nn.CrossEntropyLoss(reduction="none"), r"a tensor of shape \(30,\): it must return a tensor of one number"),
        (lambda outputs, targets: nn.functional.cross_entropy(outputs, targets).item(), "a float: it must return"),
        (lambda outputs, targets: nn.functional.cross_entropy(outputs.detach(), targets), "take it of the outputs as"),
    ],
    ids=["many", "float", "detached"],
)
def test_a_loss_that_is_none_is_told(loss: Any, said: str) -> None:
    with pytest.raises(AppError, match=said):
        trained(classes, X, np.arange(30) % 2, loss)


@pytest.mark.parametrize(
    ("make", "optimizer", "said"),
    [
        (nn.ReLU, torch.optim.SGD, "no parameter with a gradient: nothing can be trained"),
        (classes, lambda p: torch.optim.lr_scheduler.StepLR(torch.optim.SGD(p), 1), "returns a StepLR: it must"),
        (classes, lambda _: torch.optim.SGD(classes().parameters()), "other parameters than those that it was given"),
    ],
    ids=["none", "schedule", "others"],
)
def test_an_optimizer_that_trains_nothing_is_told(make: Any, optimizer: Any, said: str) -> None:
    of = TorchTrainer(make, nn.functional.cross_entropy, optimizer)
    with pytest.raises(AppError, match=said):
        of.fit(of.initial_model(np.random.default_rng(0)), task_of("ada", {"ada": (X, np.arange(30) % 2)}))


def test_a_module_without_sizes_and_metrics_without_names_are_told() -> None:
    with pytest.raises(AppError, match="'weight' of the module has no shape before it has seen an input"):
        trainer(lambda: nn.LazyLinear(2)).initial_model(np.random.default_rng(0))
    with pytest.raises(AppError, match="give functions of"):
        trainer(classes, metrics=["accuracy"])
    with pytest.raises(AppError, match=r"model cannot be called without arguments .*: give a module, or a lambda"):
        torch_trainer(nn.Linear)
