"""What models of language bring: tied weights, sparse gradients, layers that are computed again."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.afl import afl
from hansa.algorithms.feddyn import feddyn
from hansa.algorithms.fednova import fednova
from hansa.algorithms.fedprox import fedprox
from hansa.algorithms.fedsgd import fedsgd
from hansa.algorithms.mime import mime
from hansa.algorithms.qfedavg import qfedavg
from hansa.algorithms.scaffold import scaffold
from hansa.arrays import Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import Task, Update
from hansa.testing.federation import play, task_of
from hansa.training.convert import as_arrays

torch = pytest.importorskip("torch")
from hansa.training.torch import TorchTrainer, arrays_of_module, load_into_module  # noqa: E402 - needs torch

nn = torch.nn
WORDS, WIDTH, LENGTH = 12, 8, 5
RNG = np.random.default_rng(3)
DATA = {
    name: (RNG.integers(0, WORDS, (size, LENGTH)), RNG.integers(0, WORDS, size))
    for name, size in (("ada", 12), ("bo", 20))
}


class Words(nn.Module):  # type: ignore[misc,name-defined]  # torch is imported with a condition
    """The mean of some embeddings → the next word."""

    def __init__(self, last: str, *, sparse: bool = False) -> None:
        """last: a layer of its `own` weights, or `tied`, one of the embedding's; or the embedding's `weights`."""
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH, sparse=sparse)
        self.last: Any = None if last == "weights" else nn.Linear(WIDTH, WORDS, bias=False)
        if last == "tied":
            self.last.weight = self.embedding.weight

    def forward(self, x: Any) -> Any:
        mean = torch.tanh(self.embedding(x).mean(1))
        return mean @ self.embedding.weight.T if self.last is None else self.last(mean)


class Deep(nn.Module):  # type: ignore[misc,name-defined]  # the same
    """Layers large enough for oneDNN, computed again in the backward pass or not."""

    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 4))
        self.again = again

    def forward(self, x: Any) -> Any:
        run = torch.utils.checkpoint.checkpoint
        return run(self.layers, x, use_reentrant=False) if self.again else self.layers(x)


def test_a_module_or_its_state_dict_is_an_initial_model() -> None:
    module = Words("tied")
    given: dict[str, Any] = {"model": partial(Words, "tied"), "data": list(DATA.values()), "rounds": 1, "batch_size": 4}
    module_s, state_s, own = (
        hansa.simulate("fedavg", **given, initial_model=start) for start in (module, module.state_dict(), None)
    )
    assert module_s.model_hash == state_s.model_hash != own.model_hash
    with pytest.raises(ConfigError, match="initial_model: 'weight' of the module has no shape before it has seen"):
        hansa.simulate("fedavg", **given, initial_model=nn.LazyLinear(2))


def trainer(make: Callable[[], Any], loss: Any = nn.functional.cross_entropy, **more: Any) -> TorchTrainer:
    return TorchTrainer(make, loss, lambda parameters: torch.optim.SGD(parameters, lr=0.3), **more)


ALGORITHMS = {
    "fedprox": lambda: fedprox(WeightedMean(), mu=0.1),
    "scaffold": lambda: scaffold(WeightedMean(), num_clients=2),
    "fednova": lambda: fednova(WeightedMean()),
    "feddyn": lambda: feddyn(WeightedMean(), num_clients=2),
    "fedsgd": lambda: fedsgd(WeightedMean()),
    "qfedavg": lambda: qfedavg(WeightedMean(), learning_rate=0.3),
    "afl": lambda: afl(WeightedMean(), num_clients=2, learning_rate=0.1),
    "mime": lambda: mime(WeightedMean()),
}


def learnt(name: str, make: Callable[[], Any]) -> Arrays:
    *_, last = play(ALGORITHMS[name](), trainer(make, batch_size=8), DATA, rounds=2)
    return last.params


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_weights_with_two_names_learn_what_they_do_with_one(name: str) -> None:
    """They are one parameter, which travels once: norms, noise and sums count it once."""
    once, twice = learnt(name, partial(Words, "weights")), learnt(name, partial(Words, "tied"))
    assert list(twice) == list(once) == ["embedding.weight"]
    assert np.allclose(twice["embedding.weight"], once["embedding.weight"], rtol=0, atol=1e-6)


def test_weights_with_two_names_are_the_first_of_a_state_dict_too_and_are_loaded_into_both() -> None:
    module, other = Words("tied"), Words("tied")
    arrays = as_arrays(module.state_dict())
    assert arrays == arrays_of_module(module)
    load_into_module(other, arrays)
    assert other.last.weight is other.embedding.weight
    assert torch.equal(other.last.weight, module.last.weight)
    with pytest.raises(AppError, match=r"'last.weight' of the module is tied to a tensor before it.* travel once"):
        load_into_module(other, Arrays({**arrays, "last.weight": arrays["embedding.weight"]}))
    own = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    own["b"].load_state_dict(own["a"].state_dict())
    assert len(arrays_of_module(own)) == 4  # they are equal, and not one


def test_a_loop_of_ones_own_that_misses_the_second_name_is_told_what_knows_it() -> None:
    module = Words("tied")
    app = hansa.App()
    app.model(lambda _rng: module)

    @app.train
    def train(model: Arrays, _task: Task) -> Update:
        module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in model.items()})
        raise AssertionError

    with pytest.raises(RuntimeError, match=r"last\.weight") as told:
        hansa.simulate(app, clients=1, rounds=1)
    assert "load_into_module(module, model)" in "".join(told.value.__notes__)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_sparse_gradients_of_an_embedding_are_those_of_a_dense_one(name: str) -> None:
    dense, sparse = (learnt(name, partial(Words, "own", sparse=sparse)) for sparse in (False, True))
    assert np.allclose(dense["embedding.weight"], sparse["embedding.weight"], rtol=0, atol=1e-6)


def test_layers_that_are_computed_again_backwards_are_so_by_the_same_routines() -> None:
    rng = np.random.default_rng(0)
    data = {"ada": (rng.standard_normal((24, 512), np.float32), rng.integers(0, 4, 24))}
    found = []
    for again in (False, True):
        of = trainer(partial(Deep, again=again))
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = arrays_of_module(Deep(again=again))
        found.append((of.fit(model, task_of("ada", data)).arrays, of.gradient(model, task_of("ada", data)).arrays))
    assert found[0] == found[1]
