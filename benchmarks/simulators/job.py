"""What every program here is given, and what it hands back: one file of data, one line of JSON, one model.

It needs numpy alone, for it is loaded in the environment of each library.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["JOBS", "Job", "Run", "Shape", "make"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a workload, without its data."""

    title: str
    inputs: tuple[int, ...]
    """Of one example; images are channels first."""
    classes: int
    clients: int
    examples: int
    """Of each client."""
    batch_size: int
    epochs: int
    learning_rate: float = 0.05


JOBS = {
    "L": Shape("logistic regression 60-10", (60,), 10, 100, 50, 10, 5),
    "S": Shape("MLP 60-64-10", (60,), 10, 100, 50, 10, 5),
    "F": Shape("FEMNIST CNN", (1, 28, 28), 62, 10, 100, 20, 1),
    "C": Shape("CIFAR-10 CNN", (3, 32, 32), 10, 50, 50, 10, 1),
}


@dataclass(frozen=True, slots=True)
class Job:
    """A workload: FedAvg of all clients in every round, each with plain SGD."""

    workload: str
    shape: Shape
    x: Array
    """(clients, examples, *inputs), float32."""
    y: Array
    """(clients, examples), int64."""
    initial: dict[str, Array]
    """The model that all begin with, as a state_dict of PyTorch."""

    def write(self, path: Path) -> None:
        """As one file."""
        about = np.array(json.dumps({"workload": self.workload, **asdict(self.shape)}))
        np.savez(path, about=about, x=self.x, y=self.y, **{f"initial/{name}": v for name, v in self.initial.items()})

    @classmethod
    def read(cls, path: Path) -> Self:
        """What was written."""
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            workload, inputs = about.pop("workload"), tuple(about.pop("inputs"))
            initial = {name.removeprefix("initial/"): file[name] for name in file.files if name.startswith("initial/")}
            return cls(workload, Shape(inputs=inputs, **about), file["x"], file["y"], initial)


def make(workload: str, initial: dict[str, Array], *, seed: int = 7) -> tuple[Job, Array, Array]:
    """A workload, and 2,000 examples more of the same kind, on which all final models are evaluated.

    An example is its class's own pattern below noise, so that every round brings the loss down and a model that was
    trained in another way shows.
    """
    shape, rng = JOBS[workload], np.random.default_rng(seed)
    patterns = _patterns(shape, rng)

    def drawn(*counts: int) -> tuple[Array, Array]:
        y = rng.integers(shape.classes, size=counts)
        x = rng.standard_normal((*counts, *shape.inputs), np.float32) + patterns[y]
        return x, y.astype(np.int64)

    x, y = drawn(shape.clients, shape.examples)
    return Job(workload, shape, x, y, initial), *drawn(2000)


def _patterns(shape: Shape, rng: np.random.Generator) -> Array:
    """One for each class, of shape (classes, *inputs): of images, squares of 4 × 4 pixels of one value."""
    if len(shape.inputs) == 1:
        return rng.standard_normal((shape.classes, *shape.inputs)).astype(np.float32) / 2
    channels, height, width = shape.inputs
    coarse = rng.standard_normal((shape.classes, channels, height // 4, width // 4)).astype(np.float32)
    return np.kron(coarse, np.ones((1, 1, 4, 4), np.float32))


class Run:
    """One run of a job in this process, from its arguments to its line of JSON."""

    def __init__(self) -> None:
        """Read the arguments."""
        parser = argparse.ArgumentParser()
        parser.add_argument("job", type=Path, help="what `Job.write` wrote")
        parser.add_argument("model", type=Path, help="where the final model goes, as .npz")
        parser.add_argument("--rounds", type=int, required=True)
        parser.add_argument("--began", type=float, required=True, help="time.monotonic() when this process was started")
        parser.add_argument("--cores", type=int, default=1, help="processes or threads, where the library has a choice")
        parser.add_argument("--setting", default="", help="which of the library's ways, where it has several")
        given = parser.parse_args()
        self.path: Path = given.job
        self.rounds: int = given.rounds
        self.cores: int = given.cores
        self.setting: str = given.setting
        self.job = Job.read(given.job)
        self._model: Path = given.model
        self._began: float = given.began
        self._ends: list[float] = []

    def round_done(self) -> None:
        """Note the time: the round's model is there."""
        self._ends.append(time.monotonic())

    def finish(self, model: dict[str, Array], about: str = "") -> None:
        """Write the final model, named as the initial one, and tell how long each round took.

        about: of the library's version and setting.
        """
        if len(self._ends) != self.rounds:
            raise RuntimeError(f"{len(self._ends)} rounds were noted, {self.rounds} were asked for")
        np.savez(self._model, **{name: np.asarray(model[name]) for name in self.job.initial})
        seconds = np.diff(self._ends).tolist()
        first = self._ends[0] - self._began
        print(json.dumps({"first": first, "seconds": seconds, "about": about}), flush=True)
