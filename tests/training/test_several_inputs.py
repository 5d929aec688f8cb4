"""Examples with several inputs by name: a module is called with them, and learns what it does of one array."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.fedsam import fedsam
from hansa.algorithms.fedsgd import fedsgd
from hansa.algorithms.mime import mime
from hansa.algorithms.moon import moon
from hansa.arrays import Arrays
from hansa.data import Examples, Split
from hansa.errors import AppError
from hansa.testing.federation import play, task_of
from hansa.training.numpy import softmax_regression

torch = pytest.importorskip("torch")
from hansa.training.pairs import scores  # noqa: E402 - needs torch
from hansa.training.torch import TorchTrainer  # noqa: E402 - needs torch

nn = torch.nn
WORDS, CLASSES = 9, 3
RNG = np.random.default_rng(4)
IDS = RNG.integers(0, WORDS, (40, 5))
MASK = (np.arange(5) < RNG.integers(1, 6, (40, 1))).astype(np.float64)
LABELS = IDS[:, 0] % CLASSES
BY_NAME = {"ids": IDS, "mask": MASK}


class Scored(NamedTuple):
    """As Hugging Face's models return it."""

    logits: Any


class Named(nn.Module):  # type: ignore[misc,name-defined]  # torch is imported with a condition
    """The mean of the words that are there → a class."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 4)
        self.last = nn.Linear(4, CLASSES)

    def forward(self, ids: Any, mask: Any) -> Any:
        there = self.embedding(ids) * mask[..., None]
        return Scored(self.last(there.sum(1) / mask.sum(1, keepdim=True)))


class Packed(Named):
    """The same, of columns of one array."""

    def forward(self, x: Any) -> Any:  # type: ignore[override]  # it takes what the other takes apart
        return super().forward(x[:, :5].long(), x[:, 5:]).logits


def scored(outputs: Any, targets: Any) -> Any:
    return nn.functional.cross_entropy(getattr(outputs, "logits", outputs), targets)


def trainer(make: Callable[[], Any], loss: Any = scored, **more: Any) -> TorchTrainer:
    return TorchTrainer(make, loss, lambda parameters: torch.optim.SGD(parameters, lr=0.3), batch_size=8, **more)


def parts(x: Any) -> dict[str, Any]:
    """The examples of two clients, one of whom tests on others than it trains on."""
    examples = Examples(x, LABELS)
    first, last = examples.take(np.arange(15)), examples.take(np.arange(15, 40))
    return {"ada": first, "bo": (last, first)}


ALGORITHMS = {
    "fedavg": lambda: fedavg(WeightedMean()),
    "fedsgd": lambda: fedsgd(WeightedMean()),
    "fedsam": lambda: fedsam(WeightedMean(), rho=0.1),
    "mime": lambda: mime(WeightedMean()),
    "moon": lambda: moon(WeightedMean(), mu=1.0, temperature=0.5),
}


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_inputs_by_name_are_learnt_to_the_bits_of_their_columns(name: str) -> None:
    def learnt(make: Callable[[], Any], x: Any) -> tuple[Arrays, dict[str, float]]:
        of, data = trainer(make, representation="embedding"), parts(x)
        *_, last = play(ALGORITHMS[name](), of, data, rounds=2)
        return last.params, dict(of.evaluate(last.params, task_of("bo", data)).values)

    by_name, packed = learnt(Named, BY_NAME), learnt(Packed, np.concatenate([IDS, MASK], axis=1))
    assert by_name == packed
    assert set(by_name[1]) == {"loss", "accuracy"}


def test_a_model_and_data_by_name_need_no_more_said() -> None:
    """The default loss and accuracy are of the logits; tensors and lists are inputs, too."""
    split = Split(Examples(BY_NAME, LABELS), Examples(BY_NAME, LABELS))
    results = [
        hansa.simulate("fedavg", model=Named, data=data, partition="dirichlet:1.0", clients=3, rounds=2, engine=engine)
        for data in (split, ({"ids": torch.from_numpy(IDS), "mask": MASK.tolist()}, LABELS))
        for engine in ("inline", "vectorized")
    ]
    assert len({result.model_hash for result in results}) == 1
    assert set(results[0].rounds[-1].central) == {"loss", "accuracy"}


def test_scores_are_the_logits_among_several_outputs() -> None:
    logits = torch.eye(3)
    assert all(scores(outputs) is logits for outputs in (logits, Scored(logits), {"logits": logits, "loss": None}))
    for other in ({"scores": logits}, (logits,), Scored(None), None):
        with pytest.raises(AppError, match="neither a tensor nor something with logits: give a loss"):
            scores(other)


class Rated(nn.Module):  # type: ignore[misc,name-defined]  # as above
    """A logit of two embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.film, self.last = nn.Embedding(WORDS, 4), nn.Embedding(WORDS, 4), nn.Linear(5, 1)

    def forward(self, user: Any, film: Any, hour: Any) -> Any:
        return self.last(torch.cat([self.user(user) * self.film(film), hour[:, None]], dim=1)).squeeze(1)


@pytest.mark.parametrize("work", ["fit", "gradient"])
def test_clients_with_inputs_by_name_train_together_as_they_do_alone(work: str) -> None:
    of = trainer(Rated, nn.BCEWithLogitsLoss(), evaluation_batch_size=6)
    x = {"user": IDS[:, 0], "film": IDS[:, 1], "hour": RNG.random(40)}
    examples = Examples(x, RNG.integers(0, 2, 40).astype(np.float32))
    turned = Examples(dict(reversed(x.items())), examples.y)
    data = {"ada": examples.take(np.arange(15)), "bo": examples.take(np.arange(15, 40)), "cy": turned}
    model = of.initial_model(np.random.default_rng(0))
    tasks = [[task_of(name, data) for name in data] for _ in range(3)]
    together = of.vectorized(model, tasks[0][0])
    assert not isinstance(together, str), together
    for task, update in zip(tasks[1], getattr(together, work)([model] * 3, tasks[0]), strict=True):
        alone = getattr(of, work)(model, task)
        assert update.num_examples == alone.num_examples
        for name, array in alone.arrays.items():
            np.testing.assert_allclose(update.arrays[name], array, rtol=0, atol=1e-6)
    for task, metrics in zip(tasks[1], together.evaluate(model, tasks[2]), strict=True):
        assert metrics.values == pytest.approx(of.evaluate(model, task).values)


def test_a_model_that_returns_several_outputs_trains_clients_one_by_one() -> None:
    of = trainer(Named)
    why = of.vectorized(of.initial_model(np.random.default_rng(0)), task_of("ada", parts(BY_NAME)))
    assert why == "the module returns a Scored, not a tensor"


def test_products_in_bfloat16_leave_every_output_in_float32() -> None:
    kinds = []

    def loss(outputs: Any, targets: Any) -> Any:
        kinds.append(outputs.logits.dtype)
        return scored(outputs, targets)

    of = trainer(Named, loss, bfloat16=True, metrics={})
    of.fit(of.initial_model(np.random.default_rng(0)), task_of("ada", parts(BY_NAME)))
    assert set(kinds) == {torch.float32}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            ({"ids": IDS, "masks": MASK}, LABELS),
            r"the inputs ids, masks by name, and takes others \(.*'mask",
        ),
        (
            ({"ids": IDS + 3, "mask": MASK}, LABELS),
            "for all of the whole numbers that it is given: ids from 3 to",
        ),
        (({"ids": IDS, "mask": MASK[1:]}, LABELS), "ada has 39 inputs 'mask' and 40 targets in its train data"),
        (({"ids": IDS.tolist(), "mask": MASK}, LABELS), "several inputs of an example are a mapping, x by name"),
        (({}, LABELS), "several inputs of an example are a mapping"),
        (((IDS, MASK), LABELS), "ada has a tuple of 2 as its data"),
        (torch.utils.data.TensorDataset(torch.zeros(2)), r"items \(x, y\) .*from_torchvision makes a pair"),
    ],
    ids=["other names", "words", "fewer", "lists", "none", "tuple", "data set"],
)
def test_what_does_not_go_together_is_told(data: Any, said: str) -> None:
    of = trainer(Named)
    with pytest.raises(AppError, match=said):
        of.fit(of.initial_model(np.random.default_rng(0)), task_of("ada", {"ada": data}))


def test_a_loss_that_cannot_take_the_outputs_apart_is_told_how() -> None:
    of = trainer(Named, nn.functional.cross_entropy)
    with pytest.raises(AppError, match=r"as lambda outputs, targets: cross_entropy\(outputs.logits, targets\)"):
        of.fit(of.initial_model(np.random.default_rng(0)), task_of("ada", parts(BY_NAME)))


def test_whoever_takes_one_array_says_so() -> None:
    with pytest.raises(AppError, match="client-0 has several inputs by name, ids, mask, which only TorchTrainer takes"):
        hansa.simulate("fedavg", model=softmax_regression(10, 3), data=(BY_NAME, LABELS), clients=2, rounds=1)
    linear_model = pytest.importorskip("sklearn.linear_model")
    with pytest.raises(AppError, match="a scikit-learn estimator takes one array"):
        hansa.simulate("fedavg", model=linear_model.SGDClassifier(), data=(BY_NAME, LABELS), clients=2, rounds=1)
