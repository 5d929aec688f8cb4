"""A case by each engine, and how one result differs from another."""

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from agreement.cases import Case
from agreement.learning import LOSSES, OPTIMIZERS, OUTPUTS, examples, odd
from agreement.modules import built
from hansa.app import App
from hansa.arrays import Arrays
from hansa.messages import ClientInfo, Metrics, RoundRules, RunSpec, Task
from hansa.simulation import SimulationResult, simulate
from hansa.simulation.devices import Dropouts, Instant, LogNormalSpeeds, Stragglers
from hansa.training import torch as of_torch
from hansa.training.torch import TorchTrainer

__all__ = ["Ended", "app_of", "differences", "run", "spec_of", "windows_of", "written"]

TOLERANCE: Final = {"float64": 1e-7, "float32": 2e-4, "bfloat16": 0.1}
"""Of a number, relatively to the largest of its tensor or 1: what rounding in another order may come to."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A simulation by an error."""

    kind: str
    said: str


def app_of(case: Case) -> App:
    """A new app, with nothing that another one has touched."""

    def module() -> torch.nn.Module:
        return built(case.inputs, case.layers, case.tail, OUTPUTS[case.targets], case.quirk, case.dtype)

    trainer = TorchTrainer(
        module,
        LOSSES[case.targets][case.loss],
        OPTIMIZERS[case.optimizer],
        batch_size=case.batch_size,
        epochs=case.epochs,
        steps=case.steps,
        drop_last=case.drop_last,
        evaluation_batch_size=case.evaluation_batch_size,
        metrics={"size": lambda outputs, _: outputs.abs().mean()} if case.metrics else None,
        channels_last=case.channels_last,
        bfloat16=case.bfloat16,
        representation="0",
    )
    app = App(trainer)
    if case.central:

        @app.central_evaluate
        def central(model: Arrays, rng: np.random.Generator) -> Metrics:
            given = examples(case.inputs, case.targets, 5, case.seed)
            return trainer.evaluate(model, Task(ClientInfo("beside"), 1, rng, given))

    oddities, kept = dict(case.oddities), dict[int, Any]()

    @app.data
    def data(client: Any) -> Any:
        if client.index not in kept or not case.kept:
            given = examples(case.inputs, case.targets, case.sizes[client.index], 100 * case.seed + client.index)
            kept[client.index] = odd(oddities.get(client.index, ""), *given)
        return kept[client.index]

    return app


_DEVICES: Final = {"Stragglers": Stragglers, "Dropouts": Dropouts, "LogNormalSpeeds": LogNormalSpeeds}

_APP: Final = """
import sys
import warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {tests!r})
from agreement.cases import Case
from agreement.engines import app_of
app = app_of(Case.read({text!r}))
"""


def written(case: Case, folder: Path) -> Path:
    """Its app as a file in this folder."""
    app = folder / "app.py"
    app.write_text(_APP.format(tests=str(Path(__file__).parents[1]), text=case.text()))
    return app


def spec_of(case: Case) -> RunSpec:
    """What is to be run."""
    return RunSpec(
        algorithm=case.algorithm,
        algorithm_options=dict(case.options),
        aggregator=case.aggregator,
        aggregator_options=dict(case.aggregator_options),
        transforms=case.transforms,
        rounds=case.rounds,
        seed=case.seed,
        max_weight=case.max_weight,
        rules=RoundRules() if case.count is None else RoundRules(selection="count", count=case.count),
    )


def run(case: Case, engine: Any, folder: Path | None = None, **more: Any) -> SimulationResult | Ended:
    """A simulation, or what it raised. folder: for the app's file, where its engine needs one."""
    app: App | Path = app_of(case) if folder is None else written(case, folder)
    devices = eval(case.devices, dict(_DEVICES)) if case.devices else Instant()  # noqa: S307 - a text of this package
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return simulate(
                app,
                spec_of(case),
                clients=len(case.sizes),
                engine=engine,
                devices=devices,
                attack=case.attack or None,
                tolerate_failures=case.tolerate,
                **more,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the other engines should end alike
            return Ended(type(error).__name__, str(error))


@contextmanager
def windows_of(clients: int) -> Iterator[None]:
    """No stack has room for more."""
    prepare = of_torch.prepare

    def narrow(*given: Any) -> Any:
        found = prepare(*given)
        return found if isinstance(found, str) else replace(found, most=clients)

    of_torch.prepare = narrow
    try:
        yield
    finally:
        of_torch.prepare = prepare


# ── differences ──────────────────────────────────────────────────────────────────────────────────────────────────────

_EXACT: Final = (
    "round", "num_examples", "accepted", "examples", "upload_bytes", "failed", "missing", "staleness", "bases",
    "evaluated", "failed_evaluations", "virtual_seconds",
)  # fmt: skip
_TRAINED: Final = ("metrics", "reports")
_EVALUATED: Final = ("evaluation", "central", "verdicts")

_PLACE: Final = re.compile(r" \([^()]*:\d+\)| at 0x[0-9a-f]+")
"""Where an error was raised, or something is in memory."""
_NUMBER: Final = re.compile(r"-?\d+\.\d+(e-?\d+)?")


def differences(
    one: SimulationResult | Ended, other: SimulationResult | Ended, tolerance: float, evaluated: float | None = None
) -> Iterator[str]:
    """In words; nothing where they agree. tolerance: 0 for the same bits; evaluated: the same of evaluations."""
    of_evaluations = tolerance if evaluated is None else evaluated
    if isinstance(one, Ended) or isinstance(other, Ended):
        if isinstance(one, Ended) != isinstance(other, Ended) or _rough(_end(one)) != _rough(_end(other)):
            yield f"{_end(one)} / {_end(other)}"
        return
    if len(one.rounds) != len(other.rounds):
        yield f"{len(one.rounds)} / {len(other.rounds)} rounds"
    for mine, theirs in zip(one.rounds, other.rounds, strict=False):
        where = f"round {mine.round}"
        for name in _EXACT:
            left, right = _placeless(getattr(mine, name)), _placeless(getattr(theirs, name))
            if left != right:
                yield f"{where}: {name}: {left} / {right}"
        if {c: why.split(":")[0] for c, why in mine.rejected.items()} != {
            c: why.split(":")[0] for c, why in theirs.rejected.items()
        }:
            yield f"{where}: rejected: {mine.rejected} / {theirs.rejected}"
        for name in _TRAINED:
            yield from _unlike_values(f"{where}: {name}", getattr(mine, name), getattr(theirs, name), tolerance)
        for name in _EVALUATED:
            yield from _unlike_values(f"{where}: {name}", getattr(mine, name), getattr(theirs, name), of_evaluations)
        yield from _unlike_values(f"{where}: norms", {"": mine.norms}, {"": theirs.norms}, max(tolerance, 2e-5))
    yield from _unlike("model", one.model, other.model, tolerance)
    for name, slot in one.state.slots.items():
        yield from _unlike(f"slot {name}", slot, other.state.slots[name], tolerance)


def _end(result: SimulationResult | Ended) -> str:
    return f"{result.kind}: {result.said}" if isinstance(result, Ended) else "a result"


def _placeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rough(said) if isinstance(said, str) else said for name, said in value.items()}
    return value


def _rough(said: str) -> str:
    """What is said, without places, and with few digits."""
    return _NUMBER.sub(lambda found: f"{float(found[0]):.3g}", _PLACE.sub("", said))


def _unlike_values(where: str, one: Mapping[str, Any], other: Mapping[str, Any], tolerance: float) -> Iterator[str]:
    if set(one) != set(other):
        yield f"{where}: {sorted(one)} / {sorted(other)}"
        return
    for name, value in one.items():
        left, right = np.atleast_1d(np.asarray(value, float)), np.atleast_1d(np.asarray(other[name], float))
        if left.shape != right.shape or not _near(left, right, tolerance):
            yield f"{where} {name}: {value} / {other[name]}"


def _unlike(where: str, one: Arrays, other: Arrays, tolerance: float) -> Iterator[str]:
    if list(one) != list(other):
        yield f"{where}: {list(one)} / {list(other)}"
        return
    for name, array in one.items():
        left, right = np.asarray(array, float), np.asarray(other[name], float)
        if array.dtype != other[name].dtype or left.shape != right.shape:
            yield f"{where} {name}: {array.dtype}{left.shape} / {other[name].dtype}{right.shape}"
        elif not _near(left, right, tolerance):
            yield f"{where} {name}: by {np.nanmax(np.abs(left - right)):.3g} of {np.nanmax(np.abs(left)):.3g}"


def _near(left: Any, right: Any, tolerance: float) -> bool:
    if not tolerance:
        return np.array_equal(left, right, equal_nan=True)
    finite = right[np.isfinite(right)]
    size = max(1.0, float(np.abs(finite).max())) if finite.size else 1.0
    return np.allclose(left, right, rtol=0, atol=tolerance * size, equal_nan=True) if math.isfinite(size) else True
