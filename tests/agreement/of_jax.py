"""The same for JAX: its engines, a loop as one would write it by hand, and PyTorch where both can be said."""

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from agreement.engines import Ended, differences
from hansa.app import App
from hansa.arrays import Arrays
from hansa.messages import Metrics, RunSpec, Task, Update
from hansa.simulation import SimulationResult, simulate
from hansa.training.jax import JaxTrainer
from hansa.training.local import count, evaluation_examples, training_examples
from hansa.training.torch import TorchTrainer

__all__ = ["JaxCase", "draw", "judge", "shrunk"]

FEATURES: Final = 6
TOLERANCE: Final = 3e-4


@dataclass(frozen=True, slots=True)
class JaxCase:
    """A simulation. Each default is the plainest value."""

    layers: tuple[str, ...] = ()
    """What is between linear layers, and behind the last one."""
    classes: int = 3
    zeros: bool = False
    """Whether all parameters begin with 0."""
    quirk: str = ""
    targets: str = "classes"
    loss: str = "cross_entropy"
    optimizer: str = "sgd"
    batch_size: int | None = 4
    epochs: int | None = None
    drop_last: bool = False
    evaluation_batch_size: int = 1024
    sizes: tuple[int, ...] = (8, 5)
    oddity: str = ""
    """Of the last client."""
    algorithm: str = "fedavg"
    options: tuple[tuple[str, Any], ...] = ()
    rounds: int = 1
    seed: int = 0


ACTIVATIONS: Final[Mapping[str, tuple[Callable[[Any], Any], Callable[[], torch.nn.Module]]]] = {
    "relu": (jax.nn.relu, torch.nn.ReLU),
    "tanh": (jnp.tanh, torch.nn.Tanh),
    "sigmoid": (jax.nn.sigmoid, torch.nn.Sigmoid),
    "elu": (jax.nn.elu, torch.nn.ELU),
    "softplus": (jax.nn.softplus, torch.nn.Softplus),
    "softmax": (jax.nn.softmax, lambda: torch.nn.Softmax(-1)),
    "log softmax": (jax.nn.log_softmax, lambda: torch.nn.LogSoftmax(-1)),
}


def _each(outputs: Any, targets: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def _weighted(outputs: Any, targets: Any) -> Any:
    weights = jnp.where(targets == outputs.shape[-1] - 1, 5.0, 1.0)
    return (weights * _each(outputs, targets)).sum() / weights.sum()


def _without_last(outputs: Any, targets: Any) -> Any:
    counts = targets != outputs.shape[-1] - 1
    return jnp.where(counts, _each(outputs, targets), 0).sum() / jnp.maximum(counts.sum(), 1)


def _balanced(outputs: Any, targets: Any) -> Any:
    shares = jax.nn.softmax(outputs).mean(0)
    return _each(outputs, targets).mean() + 0.02 * (shares * jnp.log(shares)).sum()


LOSSES: Final[Mapping[str, Mapping[str, Callable[[Any, Any], Any]]]] = {
    "classes": {
        "cross_entropy": lambda o, y: _each(o, y).mean(),
        "weighted": _weighted,
        "without the last class": _without_last,
        "summed": lambda o, y: _each(o, y).sum(),
        "sum over 6": lambda o, y: _each(o, y).sum() / 6,
        "root": lambda o, y: jnp.sqrt(_each(o, y).mean()),
        "balanced": _balanced,
        "with penalty": lambda o, y: (_each(o, y) + 0.01 * jnp.square(o).sum(-1)).mean(),
    },
    "values": {
        "squares": lambda o, y: jnp.square(o[:, 0] - y).mean(),
        "broadcast": lambda o, y: jnp.square(o - y).mean(),
        "huber": lambda o, y: optax.huber_loss(o[:, 0], y).mean(),
    },
}

_OF_TORCH: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "cross_entropy": torch.nn.functional.cross_entropy,
    "summed": lambda o, y: torch.nn.functional.cross_entropy(o, y, reduction="sum"),
    "squares": lambda o, y: torch.nn.functional.mse_loss(o[:, 0], y),
    "huber": lambda o, y: torch.nn.functional.huber_loss(o[:, 0], y),
}

OPTIMIZERS: Final[Mapping[str, tuple[Any, Callable[[Any], torch.optim.Optimizer] | None]]] = {
    "sgd": (optax.sgd(0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": (optax.sgd(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "clipped": (optax.chain(optax.clip_by_global_norm(0.05), optax.sgd(0.1)), None),
    "scheduled": (optax.sgd(optax.exponential_decay(0.1, 2, 0.5)), None),
    "decayed": (
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.05)),
        lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1),
    ),
    "adamw": (optax.adamw(0.01), None),
    "lamb": (optax.lamb(0.01), None),
}

QUIRKS: Final = ("", "mixing", "counting", "frozen", "unused")
ODDITIES: Final = ("", "another shape", "whole inputs", "floating targets", "no number", "a class below", "one class")


def _functions(case: JaxCase) -> tuple[Callable[[Any], Any], Callable[..., Any]]:
    outputs = case.classes if case.targets == "classes" else 1
    shapes = [(FEATURES, FEATURES)] * (len(case.layers) - 1) + [(outputs, FEATURES)]

    def init(key: Any) -> Any:
        def of(number: int, shape: Any) -> Any:
            drawn = jax.random.normal(jax.random.fold_in(key, number), shape) / 2
            return {"weight": jnp.zeros(shape) if case.zeros else drawn, "bias": jnp.zeros(shape[0])}

        params = {str(2 * number): of(number, shape) for number, shape in enumerate(shapes)}
        return params | ({"more": jnp.ones(2)} if case.quirk == "unused" else {})

    def apply(params: Any, x: Any) -> Any:
        for number in range(len(shapes)):
            layer = params[str(2 * number)]
            if case.quirk == "frozen" and number == 0:
                layer = jax.lax.stop_gradient(layer)
            x = x @ layer["weight"].T + layer["bias"]
            if number < len(case.layers):
                x = ACTIVATIONS[case.layers[number]][0](x)
        if case.quirk == "mixing":
            return x - 0.005 * x.mean(0)
        return x * (1 + 0.001 * len(x)) if case.quirk == "counting" else x

    return init, apply


class Loop:
    """A trainer as one would write it by hand: each batch as it is, nothing compiled, nothing filled up."""

    def __init__(self, case: JaxCase, trainer: JaxTrainer) -> None:
        self._case, self._trainer = case, trainer
        self._setup = trainer._work.setup
        self.initial_model = trainer.initial_model

    def fit(self, model: Arrays, task: Task) -> Update:
        setup = self._setup
        x, y = setup.examples(training_examples(task))
        params = setup.tree.params(setup.tree.leaves(model))
        memory, losses = setup.optimizer.init(params), []
        for batch in setup.work.batches(len(x), task):
            loss, slopes = self._slopes(params, x[batch], y[batch])
            moves, memory = setup.optimizer.update(slopes, memory, params)
            params = optax.apply_updates(params, moves)
            losses.append((float(loss), count(batch)))
        arrays = dict(zip(setup.tree.trained, map(np.asarray, jax.tree.leaves(params)), strict=True))
        mean = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
        return Update(Arrays({name: arrays[name] for name in model}), len(x), {"loss": mean})

    def gradient(self, model: Arrays, task: Task) -> Update:
        raise NotImplementedError(model, task)

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        setup = self._setup
        x, y = setup.examples(evaluation_examples(task))
        params = setup.tree.params(setup.tree.leaves(model))
        sums: dict[str, float] = {}
        for batch in setup.neighbours(len(x), task):
            for name, measure in setup.measures(y).items():
                value = float(measure(setup.apply(params, x[batch]), y[batch]))
                sums[name] = sums.get(name, 0.0) + value * count(batch)
        return Metrics({name: total / len(x) for name, total in sums.items()}, len(x))

    def _slopes(self, params: Any, x: Any, y: Any) -> Any:
        return jax.value_and_grad(lambda now: self._setup.loss(self._setup.apply(now, x), y))(params)


def _trainer(case: JaxCase) -> JaxTrainer:
    init, apply = _functions(case)
    return JaxTrainer(
        init,
        apply,
        LOSSES[case.targets][case.loss],
        OPTIMIZERS[case.optimizer][0],
        batch_size=case.batch_size,
        epochs=case.epochs,
        drop_last=case.drop_last,
        evaluation_batch_size=case.evaluation_batch_size,
    )


def _torch_trainer(case: JaxCase) -> TorchTrainer | None:
    """The same in PyTorch, where it can be said there and draws no batches."""
    _, optimizer = OPTIMIZERS[case.optimizer]
    if case.quirk or case.batch_size is not None or optimizer is None or case.loss not in _OF_TORCH:
        return None

    def module() -> torch.nn.Module:
        outputs, made = case.classes if case.targets == "classes" else 1, []
        for number in range(max(1, len(case.layers))):
            last = number >= len(case.layers) - 1
            made.append(torch.nn.Linear(FEATURES, outputs if last else FEATURES))
            made += [ACTIVATIONS[case.layers[number]][1]()] if case.layers else []
        return torch.nn.Sequential(*made)

    return TorchTrainer(
        module, _OF_TORCH[case.loss], optimizer, epochs=case.epochs, evaluation_batch_size=case.evaluation_batch_size
    )


def _data(case: JaxCase, index: int) -> tuple[Any, Any]:
    rng = np.random.default_rng([case.seed, index])
    n = case.sizes[index]
    x = rng.normal(size=(n, FEATURES)).astype(np.float32)
    y: Any = rng.integers(0, case.classes, n) if case.targets == "classes" else x[:, 0] * 2
    match case.oddity if index == len(case.sizes) - 1 else "":
        case "another shape":
            x = x.reshape(n, 2, -1)
        case "whole inputs":
            x = np.rint(x).astype(np.int64)
        case "floating targets":
            y = y.astype(np.float32)
        case "no number":
            x[0, 0] = np.nan
        case "a class below" if case.targets == "classes":
            y[0] = -1
        case "one class":
            y[:] = 0
        case _:
            pass
    return x, y


def run(case: JaxCase, trainer: Any, engine: Any, initial: Any = None) -> SimulationResult | Ended:
    """A simulation, or what it raised."""
    app = App(trainer)
    app.data(lambda client: _data(case, client.index))
    spec = RunSpec(algorithm=case.algorithm, algorithm_options=dict(case.options), rounds=case.rounds, seed=case.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return simulate(
                app, spec, clients=len(case.sizes), engine=engine, tolerate_failures=True, initial_model=initial
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the other engines should end alike
            return Ended(type(error).__name__, str(error))


def judge(case: JaxCase) -> tuple[str, ...]:
    """In what engines differ: vectorized and inline; inline and a loop by hand; and PyTorch."""
    trainer = _trainer(case)
    alone = run(case, trainer, "inline")
    wrong = [f"vectorized: {each}" for each in differences(alone, run(case, trainer, "vectorized"), TOLERANCE)]
    if case.algorithm == "fedavg":
        by_hand = run(case, Loop(case, trainer), "inline")
        wrong += [f"loop: {each}" for each in differences(alone, by_hand, TOLERANCE) if ": failed" not in each]
        of_torch = _torch_trainer(case)
        if of_torch is not None and not case.oddity:
            initial = trainer.initial_model(np.random.default_rng(case.seed))
            order = of_torch.initial_model(
                np.random.default_rng(0)
            )  # weights before biases, in JAX the other way round
            mine = run(case, trainer, "inline", initial)
            theirs = run(case, of_torch, "inline", {name: initial[name] for name in order})
            wrong += [f"torch: {each}" for each in differences(mine, _in_order(theirs, initial), TOLERANCE)]
    return tuple(wrong)


def _in_order(result: SimulationResult | Ended, names: Arrays) -> SimulationResult | Ended:
    if isinstance(result, Ended):
        return result
    params = Arrays({name: result.model[name] for name in names})
    return replace(result, state=replace(result.state, params=params))


def draw(seed: int) -> JaxCase:
    """The case of a seed."""
    rng = random.Random(seed)  # noqa: S311 - the same in every run

    def rarely(share: float, others: Sequence[Any], plain: Any) -> Any:
        return rng.choice(others) if rng.random() < share else plain

    targets = rarely(0.3, ["values"], "classes")
    algorithm = rarely(0.3, ["fedprox", "scaffold", "fedsgd", "mime", "ditto", "fednova"], "fedavg")
    return JaxCase(
        layers=tuple(rng.choices(list(ACTIVATIONS), k=rng.randint(0, 3))),
        classes=rarely(0.3, [2, 12], 3),
        zeros=rng.random() < 0.2,
        quirk=rarely(0.25, QUIRKS, ""),
        targets=targets,
        loss=rng.choice(list(LOSSES[targets])),
        optimizer=rarely(0.5, list(OPTIMIZERS), "sgd") if algorithm == "fedavg" else "sgd",
        batch_size=rarely(0.5, [None, 2, 7, 100], 4),
        epochs=rarely(0.4, [1, 2, 3], None),
        drop_last=rng.random() < 0.15,
        evaluation_batch_size=rarely(0.3, [3, 8], 1024),
        sizes=tuple(rng.choice([1, 2, 4, 5, 8, 13]) for _ in range(rng.randint(2, 4))),
        oddity=rarely(0.3, ODDITIES, ""),
        algorithm=algorithm,
        rounds=rng.randint(1, 2),
        seed=rng.randrange(100),
    )


def shrunk(case: JaxCase, kind: str) -> JaxCase:
    """The same with as much plain as still shows a difference of this kind."""
    for field in fields(JaxCase):
        plain = getattr(JaxCase(), field.name)
        if getattr(case, field.name) != plain and field.name not in {"targets", "loss"}:
            candidate = replace(case, **{field.name: plain})
            if any(each.startswith(kind) for each in judge(candidate)):
                return shrunk(candidate, kind)
    return case
