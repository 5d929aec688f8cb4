"""Items that many have, of which nobody has a list: texts, codes, addresses."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hansa.algorithms.options import check_count
from hansa.arrays import Arrays
from hansa.messages import Metrics, Task, Update
from hansa.training.unaveraged import only_by

__all__ = ["ItemsTrainer", "hitters"]


@dataclass(frozen=True, slots=True)
class ItemsTrainer:
    """For the algorithm `heavy-hitters`. `task.data`: a list of texts, which are taken as UTF-8, or of bytes."""

    places: int
    """How many prefixes go on from each round, and so how many items are found at most."""
    length: int
    """Bytes of an item that are looked at; after as many rounds nothing more is found."""
    can_evaluate: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what is not a positive whole number."""
        check_count("ItemsTrainer", "places", self.places)
        check_count("ItemsTrainer", "length", self.length)

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """Nothing is known: `prefixes` of shape (places, length), int64, and `counts` of shape (places,), 0."""
        del rng
        prefixes = np.zeros((self.places, self.length), np.int64)
        return Arrays({"counts": np.zeros(self.places, np.int64), "prefixes": prefixes})

    def fit(self, model: Arrays, task: Task) -> Update:
        """Always an `AppError`."""
        del model, task
        raise only_by(self, "heavy-hitters")

    def gradient(self, model: Arrays, task: Task) -> Update:
        """Always an `AppError`."""
        del model, task
        raise only_by(self, "heavy-hitters")

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """Always an `AppError`."""
        del model, task
        raise only_by(self, "heavy-hitters")


def hitters(model: Arrays) -> dict[bytes, int]:
    """Item, or what of it is known, → how often it was counted; the most frequent first."""
    rows = zip(model["prefixes"], model["counts"].tolist(), strict=True)
    return {bytes(prefix.astype(np.uint8)).rstrip(b"\0"): count for prefix, count in rows if count}
