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


def test_clients_with_inputs_by_name_train_one_by_one() -> None:
    of = trainer(Named)
    why = of.vectorized(of.initial_model(np.random.default_rng(0)), task_of("ada", parts(BY_NAME)))
    assert why == "the examples have several inputs by name, with which a module is called for one client at a time"


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
