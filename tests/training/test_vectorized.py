"""Many clients on stacked parameters, against each of them alone; and what cannot be stacked."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hansa.arrays import Arrays
from hansa.errors import InputError
from hansa.messages import ClientInfo, GradientCorrection, Task, Update
from hansa.training.local import filled, padded

torch = pytest.importorskip("torch")
from hansa.training.rehearsal import OPTIMIZERS  # noqa: E402 - needs torch
from hansa.training.stacks import TorchStacks  # noqa: E402 - needs torch
from hansa.training.torch import TorchTrainer  # noqa: E402 - needs torch
from hansa.training.vectorized import Schedule, Way, per_example  # noqa: E402 - needs torch

nn, functional = torch.nn, torch.nn.functional
SIZES = (23, 5, 64, 8, 1, 40, 20, 7)
"""Examples of each client: more, fewer and exactly as many as a batch."""

TOLERANCE = 1e-5
"""Of a value of the model, absolutely and relatively: what rounding in another order may move it in a few steps."""


def mlp() -> Any:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))


def examples(client: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(client)
    x = rng.standard_normal((SIZES[client], 6)).astype(np.float32)
    return x, (x[:, :3] + 0.3 * rng.standard_normal((SIZES[client], 3))).argmax(1)


def trainer(
    module: Any = mlp, optimizer: Any = None, loss: Any = functional.cross_entropy, **more: Any
) -> TorchTrainer:
    more = {"batch_size": 8, "epochs": 3} | more
    return TorchTrainer(module, loss, optimizer or (lambda p: torch.optim.SGD(p, lr=0.1)), **more)


def task(client: int, data: Any = None, work: float = 1.0, correction: GradientCorrection | None = None) -> Task:
    rng = np.random.default_rng([7, client])
    given = examples(client) if data is None else data(client)
    return Task(ClientInfo(f"client-{client}"), 1, rng, given, work=work).corrected_by(correction)


def stacks(of: TorchTrainer, data: Any = None) -> TorchStacks:
    found = of.vectorized(model(of), task(0, data))
    assert isinstance(found, TorchStacks), found
    return found


def model(of: TorchTrainer) -> Arrays:
    return of.initial_model(np.random.default_rng(3))


def assert_alike(together: Sequence[Update], alone: Sequence[Update]) -> None:
    for mine, theirs in zip(together, alone, strict=True):
        assert list(mine.arrays) == list(theirs.arrays)
        for name, array in theirs.arrays.items():
            assert mine.arrays[name].dtype == array.dtype
            np.testing.assert_allclose(mine.arrays[name], array, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)
        assert mine.num_examples == theirs.num_examples
        assert mine.metrics == pytest.approx(theirs.metrics, rel=1e-4)
        assert mine.step_sum == theirs.step_sum


def check(of: TorchTrainer, data: Any = None, **more: Any) -> None:
    """All clients together are each alone."""
    start, clients = model(of), range(len(SIZES))
    alone = [of.fit(start, task(client, data, **more)) for client in clients]
    together = stacks(of, data).fit([start] * len(SIZES), [task(client, data, **more) for client in clients])
    assert_alike(together, alone)
    assert any(not np.array_equal(array, start[name]) for name, array in alone[0].arrays.items())


# ── as each alone ────────────────────────────────────────────────────────────────────────────────────────────────────

SGD = [
    {"lr": 0.1},
    {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    {"lr": 0.05, "momentum": 0.9, "dampening": 0.2},
    {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    {"lr": 0.05, "maximize": True},
    {"lr": 0.1, "foreach": True},
]


@pytest.mark.parametrize("options", SGD, ids=str)
def test_sgd_takes_the_steps_that_each_client_takes_alone(options: dict[str, Any]) -> None:
    check(trainer(optimizer=lambda p: torch.optim.SGD(p, **options)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: each.__name__)
def test_every_known_optimizer_takes_the_steps_that_each_client_takes_alone(optimizer: Any) -> None:
    check(trainer(optimizer=lambda p: optimizer(p, lr=0.01), epochs=4))


def test_parameter_groups_are_chosen_by_the_shapes_of_one_client() -> None:
    """Weight decay for matrices alone: in a stack a bias is a matrix too."""

    def groups(parameters: Any) -> Any:
        given = list(parameters)
        matrices, rest = [p for p in given if p.dim() > 1], [p for p in given if p.dim() == 1]
        return torch.optim.SGD([{"params": rest}, {"params": matrices, "weight_decay": 0.5, "lr": 0.02}], lr=0.1)

    check(trainer(optimizer=groups))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": None},
        {"batch_size": 8, "epochs": None, "steps": 7},
        {"batch_size": 16, "drop_last": True},
        {"batch_size": 100},
        {"batch_size": 1, "epochs": 1},
    ],
    ids=str,
)
def test_batches_are_those_that_each_client_has_alone(options: dict[str, Any]) -> None:
    check(trainer(**options))


def test_part_of_the_work_is_that_part_of_each_clients_steps() -> None:
    check(trainer(), work=0.4)


CLASSES = torch.tensor([0.5, 2.0, 1.0])


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.CrossEntropyLoss(), None),
        (nn.CrossEntropyLoss(label_smoothing=0.1), None),
        (lambda outputs, y: functional.cross_entropy(outputs, y) + 1e-3 * outputs.square().sum(1).mean(), None),
        (nn.MSELoss(), lambda y: np.eye(3)[y]),
        (functional.smooth_l1_loss, lambda y: np.eye(3)[y]),
        (functional.binary_cross_entropy_with_logits, lambda y: np.eye(3)[y]),
    ],
    ids=["module", "smoothing", "own", "mse", "huber", "logits"],
)
def test_any_mean_over_examples_is_a_loss(loss: Any, targets: Any) -> None:
    def data(client: int) -> Any:
        x, y = examples(client)
        return x, y if targets is None else targets(y)

    check(trainer(loss=loss), data)


class Net(nn.Module):
    """A module with a forward of its own, a frozen layer, a buffer, a parameter that nothing uses and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.last = nn.Linear(6, 5), nn.Linear(5, 5, bias=False), nn.Linear(5, 3)
        self.frozen.weight.requires_grad_(requires_grad=False)
        self.unused, self.scale = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(()))
        self.register_buffer("shift", torch.tensor(0.1))

    def forward(self, x: Any) -> Any:
        h = functional.relu(self.first(x)) + self.shift
        return self.scale * self.last(torch.tanh(self.frozen(h)))


class Attention(nn.Module):
    """Attention over three places, of two numbers each."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(2, 6), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        query, key, value = self.inner(x.view(-1, 3, 2)).chunk(3, dim=-1)
        return self.last((torch.softmax(query @ key.mT, dim=-1) @ value).flatten(1))


MODULES: dict[str, Callable[[], Any]] = {
    "linear": lambda: nn.Linear(6, 3),
    "no bias": lambda: nn.Sequential(nn.Linear(6, 9, bias=False), nn.Tanh(), nn.Linear(9, 3)),
    "sigmoid": lambda: nn.Sequential(nn.Linear(6, 7), nn.Sigmoid(), nn.Linear(7, 3)),
    "gelu": lambda: nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 5), nn.SiLU(), nn.Linear(5, 3)),
    "layer norm": lambda: nn.Sequential(nn.Linear(6, 7), nn.LayerNorm(7), nn.ELU(), nn.Linear(7, 3)),
    "own forward": Net,
    "three axes": lambda: nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Linear(2, 4), nn.Flatten(), nn.Linear(12, 3)),
    "attention": Attention,
}


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_modules_of_many_kinds_train_as_each_client_alone(module: Any) -> None:
    check(trainer(module, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01)))


def test_words_go_through_embeddings() -> None:
    def data(client: int) -> Any:
        rng = np.random.default_rng(client)
        return rng.integers(0, 11, (SIZES[client], 4)), rng.integers(0, 3, SIZES[client])

    check(trainer(lambda: nn.Sequential(nn.Embedding(11, 5), nn.Flatten(), nn.Linear(20, 3))), data)


def test_convolutions_can_be_stacked_though_on_a_cpu_they_are_not() -> None:
    def data(client: int) -> Any:
        rng = np.random.default_rng(client)
        return rng.standard_normal((SIZES[client], 2, 6, 6)).astype(np.float32), rng.integers(0, 3, SIZES[client])

    of = trainer(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)))
    assert of.vectorized(model(of), task(0, data)) == "on a CPU its convolutions are faster for one client at a time"
    kind = (torch.Size((2, 6, 6)), torch.float32), (torch.Size(()), torch.int64)
    together = TorchStacks(of._setup, per_example(functional.cross_entropy), Way(), Way(), kind, most=8)
    start = model(of)
    updates = together.fit([start] * len(SIZES), [task(client, data) for client in range(len(SIZES))])
    assert_alike(updates, [of.fit(start, task(client, data)) for client in range(len(SIZES))])


def test_bfloat16_stays_bfloat16() -> None:
    of = trainer(lambda: mlp().to(torch.bfloat16))
    start = model(of)
    (update,) = stacks(of).fit([start], [task(0)])
    alone = of.fit(start, task(0))
    for name, array in alone.arrays.items():
        assert update.arrays[name].dtype == array.dtype
        np.testing.assert_allclose(update.arrays[name].astype(float), array.astype(float), atol=0.05)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam], ids=["SGD", "Adam"])
def test_each_client_has_its_own_model_and_its_own_correction(optimizer: Any) -> None:
    of = trainer(optimizer=lambda p: optimizer(p, lr=0.05))
    models = [of.initial_model(np.random.default_rng(client)) for client in range(len(SIZES))]

    def corrected(client: int) -> Task:
        rng = np.random.default_rng([9, client])
        offset = {name: 0.1 * rng.standard_normal(array.shape).astype(array.dtype) for name, array in models[0].items()}
        return task(client, correction=GradientCorrection(proximal=0.5, offset=Arrays(offset)))

    alone = [of.fit(each, corrected(client)) for client, each in enumerate(models)]
    together = stacks(of).fit(models, [corrected(client) for client in range(len(SIZES))])
    assert_alike(together, alone)


@pytest.mark.parametrize("module", [mlp, lambda: nn.Sequential(nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 3))])
def test_steps_with_sharpness_are_those_of_each_client_alone_whoever_is_beside_it(module: Any) -> None:
    of, asked = trainer(module), GradientCorrection(sharpness=0.3, frozen=frozenset({"0.bias"}))
    check(of, correction=asked)
    start, everybody = model(of), range(len(SIZES))
    together = stacks(of).fit([start] * len(SIZES), [task(client, correction=asked) for client in everybody])
    for client in everybody:
        (alone,) = stacks(of).fit([start], [task(client, correction=asked)])
        assert alone.arrays == together[client].arrays


def test_gradients_are_those_of_each_client_alone() -> None:
    of = trainer(Net, evaluation_batch_size=10)
    start = model(of)
    alone = [of.gradient(start, task(client)) for client in range(len(SIZES))]
    assert_alike(stacks(of).gradient([start] * len(SIZES), [task(client) for client in range(len(SIZES))]), alone)


def test_evaluations_are_those_of_each_client_alone() -> None:
    of = trainer(evaluation_batch_size=10)
    start = model(of)
    together = stacks(of).evaluate(start, [task(client) for client in range(len(SIZES))])
    for client, mine in enumerate(together):
        alone = of.evaluate(start, task(client))
        assert mine.num_examples == alone.num_examples
        assert mine.values == pytest.approx(alone.values, rel=1e-5)


def test_random_numbers_are_drawn_as_by_each_client_alone() -> None:
    of = trainer()
    start = model(of)
    mine, theirs = task(2), task(2)
    stacks(of).fit([start], [mine])
    of.fit(start, theirs)
    assert mine.rng.random() == theirs.rng.random()


# ── whatever else is in the stack ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_a_client_has_the_same_bits_in_any_stack(module: Any) -> None:
    of = trainer(module, torch.optim.Adam, batch_size=10)
    start, together = model(of), stacks(of)

    def fit(clients: Sequence[int]) -> dict[int, Update]:
        return dict(zip(clients, together.fit([start] * len(clients), [task(c) for c in clients]), strict=True))

    every = fit(range(len(SIZES)))
    for some in ([7, 6, 5, 4, 3, 2, 1, 0], [0], [4], [5, 6], [2, 5], [1, 3, 7], [0, 0, 2]):
        for client, update in fit(some).items():
            assert update.arrays == every[client].arrays, (client, some)
            assert update.metrics == every[client].metrics


_PRODUCTS = """
import sys
import hansa
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
left, right = torch.randn(8, 10, 7).transpose(1, 2), torch.randn(8, 10, 6)
together = torch.bmm(left, right)
sys.exit(not all(torch.equal(torch.bmm(left[i:].clone(), right[i:].clone()), together[i:]) for i in range(8)))
"""


def test_a_product_has_the_same_bits_wherever_its_matrices_lie_in_memory() -> None:
    """MKL's need not, and on some processors do not, unless it is told before it is first used."""
    assert subprocess.run([sys.executable, "-c", _PRODUCTS], check=False).returncode == 0


def test_stacks_of_functions_that_treat_last_numbers_otherwise_have_none() -> None:
    """Sigmoids of 7 numbers in each row: 32 rows are a whole number of 32 lanes. ReLU does not mind."""
    assert stacks(trainer(MODULES["sigmoid"])).way.multiple == 32
    assert stacks(trainer(lambda: nn.Sequential(nn.Linear(6, 16), nn.Sigmoid(), nn.Linear(16, 3)))).way.multiple == 2
    assert stacks(trainer()).way.multiple == 1


def test_how_clients_train_is_found_alike_whatever_the_model_knows() -> None:
    """Else a process that joins late, or goes on from a checkpoint, would come to other bits than one that did not."""
    of, found = trainer(), set[tuple[bool, bool, int]]()
    signs = np.kron(np.eye(3, dtype=np.float32), np.array([[1], [-1]], np.float32))  # each input, and its opposite
    known = {"0.weight": np.zeros((9, 6), np.float32), "2.weight": np.zeros((3, 9), np.float32)}
    known["0.weight"][:6, :3], known["2.weight"][:, :6] = signs, signs.T
    for sure, seeds in ((1, range(10)), (40, (8, 87, 151, 205, 244)), (60, (162, 235)), (100, (19, 39, 235))):
        taught = Arrays({**model(of), **{name: np.float32(sure) * array for name, array in known.items()}})
        for seed in seeds:
            x = np.random.default_rng(seed).standard_normal((20, 6)).astype(np.float32)
            prepared = of.vectorized(taught, task(0, lambda _, x=x: (x, x[:, :3].argmax(1))))
            assert isinstance(prepared, TorchStacks), prepared
            found.add((prepared.way.dense, prepared.way.layers is not None, prepared.way.multiple))
    assert found == {(True, True, 1)}


def test_a_stack_has_as_many_clients_as_its_memory_allows() -> None:
    small, large = (
        stacks(trainer(lambda width=width: nn.Sequential(nn.Linear(6, width), nn.Linear(width, 3))))
        for width in (8, 800_000)
    )
    assert small.most > 10_000
    assert large.most == 1


def test_batches_are_filled_up_to_sizes_that_a_clients_own_examples_decide() -> None:
    assert [padded(n, 10) for n in (1, 2, 3, 4, 5, 7, 9, 10)] == [1, 2, 3, 4, 6, 8, 12, 10]
    assert [padded(n, None) for n in (13, 17, 33, 49)] == [16, 24, 48, 64]


def test_a_schedule_lets_clients_go_when_they_are_done() -> None:
    first, second, third = [slice(0, 2)] * 3, [np.array([1, 0]), np.array([2])], [slice(0, 1)]
    schedule = Schedule([filled(each, 2) for each in (first, second, third)], [0, 2, 5])
    assert list(schedule) == [(0, 3, 2), (1, 2, 1), (2, 1, 0)]
    assert schedule.index[0].tolist() == [[0, 1], [3, 2], [5, 5]]
    assert schedule.index[1].tolist() == [[0, 1], [4, 4], [5, 5]]  # one example twice, and who is done
    assert schedule.counts[:, 1].tolist() == [2, 1, 1]


# ── what cannot be stacked ───────────────────────────────────────────────────────────────────────────────────────────


class Branching(nn.Linear):
    def forward(self, x: Any) -> Any:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Mixing(nn.Linear):
    def forward(self, x: Any) -> Any:
        return super().forward(x - x.mean(0))


class Pair(nn.Linear):
    def forward(self, x: Any) -> Any:
        return super().forward(x), x


class Recurrent(nn.LSTM):
    def __init__(self) -> None:
        super().__init__(2, 3, batch_first=True)

    def forward(self, x: Any) -> Any:
        return super().forward(x.view(-1, 3, 2))[0][:, -1]


def transformer() -> Any:
    layer = nn.TransformerEncoderLayer(2, 1, 4, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (3, 2)), layer, nn.Flatten(), nn.Linear(6, 3))


def tied() -> Any:
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    module[1].weight = module[0].weight
    return module


def gradient_hook() -> Any:
    module = mlp()
    module[0].weight.register_hook(lambda gradient: gradient / gradient.norm())
    return module


def module_hook() -> Any:
    module = mlp()
    module[2].register_full_backward_hook(lambda _, slopes, __: slopes)
    return module


def clipping(parameters: Any) -> Any:
    given = list(parameters)
    made = torch.optim.SGD(given, lr=0.1)
    made.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(given, 1.0))
    return made


def column(client: int) -> Any:
    x, y = examples(client)
    return x, y.astype(np.float32)


def summed(outputs: Any, targets: Any) -> Any:
    return functional.cross_entropy(outputs, targets, reduction="sum")


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (trainer(lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))), "draws random numbers"),
        (trainer(lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))), "batch normalization"),
        (trainer(lambda: Branching(6, 3)), "mixes the examples of a batch"),
        (trainer(lambda: Mixing(6, 3)), "mixes the examples of a batch"),
        (trainer(lambda: Pair(6, 3), loss=lambda o, y: functional.cross_entropy(o[0], y)), "returns a tuple"),
        (trainer(lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 1, 4), nn.Flatten())), "convolutions"),
        (trainer(transformer), "for one client at a time"),
        (trainer(Recurrent), "aten::lstm"),
        (trainer(tied), "one parameter of the module has two names"),
        (trainer(optimizer=torch.optim.LBFGS), "LBFGS is not an optimizer"),
        (trainer(loss=summed), "not the mean of the losses of its examples"),
        (trainer(loss=nn.CrossEntropyLoss(ignore_index=2)), "leaves some targets out"),
        (trainer(loss=nn.CrossEntropyLoss(weight=CLASSES)), "not the mean of the losses of its examples"),
        (trainer(lambda: nn.Linear(5, 3)), "cannot run on stacked parameters: mat1 and mat2"),
        (trainer(gradient_hook), "the module hooks functions of its own to its gradients"),
        (trainer(module_hook), "the module hooks functions of its own to its gradients"),
        (trainer(optimizer=clipping), "the optimizer calls a function of the app's beside each step"),
        (trainer(optimizer=lambda p: torch.optim.SGD(p, lr=0.1, fused=True)), "a fused optimizer does not heed"),
    ],
    ids=lambda each: each.replace(" ", "-") if isinstance(each, str) else "",
)
def test_why_clients_cannot_train_together_is_said_in_words(of: TorchTrainer, why: str) -> None:
    random = torch.get_rng_state()
    found = of.vectorized(model(of), task(0))
    assert isinstance(found, str)
    assert why in found
    assert torch.equal(torch.get_rng_state(), random)


class Counting(nn.Linear):
    """Trains its weights from the sixth batch on."""

    batches = 0

    def forward(self, x: Any) -> Any:
        self.batches += 1
        return functional.linear(x, self.weight if self.batches > 5 else self.weight.detach(), self.bias)


def test_a_module_that_counts_its_batches_trains_alone_and_has_not_counted_those_that_were_tried() -> None:
    made = Counting(6, 3)
    of = trainer(lambda: made)
    assert of.vectorized(model(of), task(0)) == (
        "the module remembers numbers from one batch to the next (does it count them?)"
    )
    assert made.batches == 0


def test_a_module_may_remember_what_its_last_batch_was() -> None:
    class Noting(nn.Linear):
        def forward(self, x: Any) -> Any:
            self.size = len(x)
            return super().forward(x)

    of = trainer(lambda: Noting(6, 3))
    assert not isinstance(of.vectorized(model(of), task(0)), str)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_that_broadcasts_a_row_over_a_column_is_no_mean_of_losses() -> None:
    """(n, 1) and (n,) are n² differences, each of two clients' where many share a stack."""
    of = trainer(lambda: nn.Linear(6, 1), loss=functional.mse_loss)
    found = of.vectorized(model(of), task(0, column))
    assert found == "the loss of a batch is not the mean of the losses of its examples"


class Compared(nn.Linear):
    """Compares examples when it is evaluated, and begins with zeros, where that makes no difference."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Any) -> Any:
        outputs = super().forward(x)
        return outputs if self.training else outputs - outputs.mean(0)


def test_what_does_not_show_in_zeros_is_found_beside_them() -> None:
    of = trainer(Compared)
    found = of.vectorized(model(of), task(0))
    assert isinstance(found, str)
    assert "mixes the examples of a batch" in found


def test_examples_of_other_axes_than_were_tried_are_refused_in_a_stack() -> None:
    """A chain takes examples as rows of features, whatever they are, and a loss may broadcast them."""
    of = trainer()
    turned = [task(0, lambda client: (examples(client)[0].reshape(-1, 2, 3), examples(client)[1]))]
    assert stacks(of).way.layers is not None
    with pytest.raises(RuntimeError, match="shapes"):
        of.fit(model(of), turned[0])
    with pytest.raises(InputError, match="client-0 has inputs or targets of other axes"):
        stacks(of).fit([model(of)], turned)


def test_examples_of_another_length_than_was_tried_are_not_run_by_hand() -> None:
    of = trainer()
    longer = [task(0, lambda client: (np.tile(examples(client)[0], 2), examples(client)[1]))]
    with pytest.raises(RuntimeError, match="Expected size for first two dimensions"):
        stacks(of).fit([model(of)], longer)


def test_clients_whose_dtypes_differ_have_no_common_batch_to_be_evaluated_in() -> None:
    """It would make floats of whole numbers, which no embedding and no cross-entropy takes."""
    of = trainer()
    odd = task(1, lambda client: (examples(client)[0], examples(client)[1].astype(np.float32)))
    with pytest.raises(InputError, match="several dtypes"):
        stacks(of).evaluate(model(of), [task(0), odd])


def test_what_a_module_does_to_its_inputs_is_not_done_to_the_clients_data() -> None:
    x, y = examples(0)
    before = x.copy()
    of = trainer(lambda: nn.Sequential(nn.ELU(inplace=True), mlp()), batch_size=None)
    given = task(0, lambda _: (x, y))
    of.fit(model(of), given)
    of.evaluate(model(of), given)
    assert isinstance(of.vectorized(model(of), given), TorchStacks)
    assert np.array_equal(x, before)


def test_targets_that_a_loss_leaves_out_are_refused_in_a_stack() -> None:
    """-100 is what cross-entropy ignores by default: its mean is over the others."""
    x, y = examples(0)
    y[3] = -100
    of = trainer()
    with pytest.raises(InputError, match="client-0 has targets below 0"):
        stacks(of).fit([model(of)], [task(0, lambda _: (x, y))])


@pytest.mark.parametrize(
    ("known", "targets"),
    [
        (lambda y: ~y.isnan(), lambda y: np.eye(3, dtype=np.float32)[y]),
        (lambda y: y >= 0, lambda y: np.eye(3, dtype=np.float32)[y]),
        (lambda y: y != -999, lambda y: y.astype(np.float32)[:, None]),
        (lambda y: y != 255, lambda y: np.eye(3, dtype=np.int64)[y]),
    ],
    ids=["nan", "below", "single", "void"],
)
def test_a_loss_that_leaves_unknown_targets_out_is_found_where_the_first_client_has_none(
    known: Any, targets: Any
) -> None:
    """The mean of a batch is over what is known, whose number others' batches would not have."""

    def loss(outputs: Any, y: Any) -> Any:
        there = known(y)
        return ((outputs - torch.nan_to_num(y)).square() * there).sum() / there.sum()

    x, y = examples(0)
    of = trainer(lambda: nn.Linear(6, targets(y).shape[1]), loss=loss)
    found = of.vectorized(model(of), task(0, lambda _: (x, targets(y))))
    assert found == "the loss of a batch is not the mean of the losses of its examples"


def test_losses_are_taken_apart_by_their_reduction_or_one_by_one() -> None:
    outputs, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    expected = functional.cross_entropy(outputs, targets, reduction="none")
    for loss in (functional.cross_entropy, nn.CrossEntropyLoss(), lambda o, y: -torch.log_softmax(o, 1)[0, y].mean()):
        assert torch.allclose(per_example(loss)(outputs, targets), expected)
