"""FEDn's split learning as a session of parties: `central` has the labels and the top, FEDn clients have the bottoms.

The top is FEDn's: one linear layer and a sigmoid, with the binary cross-entropy and Adam, whose moments FEDn forgets
after each step and this one does not. Labels are of `central_data`: a file `labels.npz` with y_train, and y_test where
there is one. Another top is an app of one's own, see docs/how-to/from-fedn.md.
"""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hansa.app import App
from hansa.arrays import Array, Arrays, check_same_structure
from hansa.compat.fedn.formats import read_named
from hansa.errors import AppError
from hansa.messages import ClientInfo
from hansa.packages.package import build
from hansa.protocols.aligned import Split, aligned_vertical
from hansa.protocols.topology import Topology, star
from hansa.protocols.worker import Program
from hansa.training.numpy import binary_loss

__all__ = ["AGGREGATOR", "HELPER", "LogisticTop", "labels_in", "logistic_score", "package_of_top", "top_app"]

AGGREGATOR: Final = "splitlearningagg"
HELPER: Final = "splitlearninghelper"

_LABELS: Final = "labels.npz"
_MOST_BYTES: Final = 2**32
_RATE: Final = 0.01
_BETAS: Final = (0.9, 0.999)
_EPSILON: Final = 1e-8
_APP: Final = '''"""The top of a FEDn session of split learning."""

from hansa.compat.fedn.split import top_app

app = top_app()
'''


class LogisticTop:
    """σ(z·w + b) with the binary cross-entropy, stepped by Adam (Kingma and Ba 2015, arXiv:1412.6980)."""

    def __init__(self, features: int, rng: np.random.Generator, dtype: npt.DTypeLike = np.float32) -> None:
        """features: numbers of a record that come from all parties. Weights are drawn as PyTorch's are."""
        bound = 1 / np.sqrt(features)
        self._tensors: dict[str, Array] = {
            "weight": rng.uniform(-bound, bound, (features, 1)).astype(dtype),
            "bias": rng.uniform(-bound, bound, 1).astype(dtype),
        }
        self._restart()

    def arrays(self) -> Arrays:
        """A copy of its tensors."""
        return Arrays({name: array.copy() for name, array in self._tensors.items()})

    def load(self, arrays: Arrays) -> None:
        """Take these tensors, with an optimizer that starts anew."""
        check_same_structure(self._tensors, arrays, "the part received")
        self._tensors = {name: array.copy() for name, array in arrays.items()}
        self._restart()

    def step(self, activations: Array, y: Array) -> tuple[float, Array]:
        """The mean loss of all records, and its slope at the activations, before the step that this takes."""
        logits, labels = self.predict(activations), np.asarray(y)
        slope = ((_sigmoid(logits) - labels) / len(labels)).astype(activations.dtype)[:, None]
        inward = slope @ self._tensors["weight"].T.astype(activations.dtype)
        self._descend({"weight": activations.T @ slope, "bias": slope.sum(axis=0)})
        return binary_loss(logits, labels), inward

    def predict(self, activations: Array) -> Array:
        """Logits, shape (n,)."""
        return np.asarray((activations @ self._tensors["weight"])[:, 0] + self._tensors["bias"])

    def _restart(self) -> None:
        self._moments = {name: (np.zeros_like(array), np.zeros_like(array)) for name, array in self._tensors.items()}
        self._steps = 0

    def _descend(self, gradients: dict[str, Array]) -> None:
        self._steps += 1
        for name, gradient in gradients.items():
            mean, square = self._moments[name]
            mean = _BETAS[0] * mean + (1 - _BETAS[0]) * gradient
            square = _BETAS[1] * square + (1 - _BETAS[1]) * gradient**2
            self._moments[name] = mean, square
            first, second = (m / (1 - beta**self._steps) for m, beta in zip((mean, square), _BETAS, strict=True))
            array = self._tensors[name]
            self._tensors[name] = (array - _RATE * first / (np.sqrt(second) + _EPSILON)).astype(array.dtype)


def logistic_score(logits: Array, y: Array) -> tuple[float, float]:
    """(mean binary cross-entropy, accuracy)."""
    return binary_loss(logits, y), float(np.mean((logits > 0) == (y > 0)))


def labels_in(folder: str, *, testing: bool) -> Split:
    """The labels of a folder; raises `AppError` or `InputError`, which say what is to be there."""
    file = Path(folder) / _LABELS
    if not folder or not file.is_file():
        raise AppError(
            f"split learning needs labels beside the server: set HANSA_CENTRAL_DATA to a folder with a file {_LABELS} "
            "that has y_train, and y_test where the session validates"
        )
    with file.open("rb") as opened:
        found = read_named(opened, _MOST_BYTES)
    wanted = ("y_train", "y_test") if testing and "y_test" in found else ("y_train",)
    if missing := [name for name in wanted if name not in found]:
        raise AppError(f"{file} has no {missing[0]}; it has {', '.join(found) or 'nothing'}")
    labels = [np.asarray(found[name], np.float32).reshape(-1) for name in wanted]
    for name, each in zip(wanted, labels, strict=True):
        if not np.isin(each, (0, 1)).all() or not len(each):
            raise AppError(f"{name} of {file} must be some labels 0 and 1: another top is an app of your own")
    return Split(*labels)


def top_app() -> App:
    """The app that `central` runs."""
    app = App()

    @app.program
    def program(parties: int, *, rounds: int = 1, validate: bool = False) -> tuple[Program, Topology]:
        def data(client: ClientInfo) -> Split:
            return labels_in(client.settings.get("data", ""), testing=validate)

        return aligned_vertical(LogisticTop, data, score=logistic_score, rounds=rounds), star(parties)

    return app


def package_of_top() -> bytes:
    """A package of hansa's with this app."""
    with tempfile.TemporaryDirectory(prefix="hansa-fedn-") as folder:
        (Path(folder) / "app.py").write_text(_APP, encoding="utf-8")
        return build(folder, name="split-learning")


def _sigmoid(z: Array) -> Array:
    return np.asarray(0.5 * np.tanh(0.5 * z) + 0.5)
