"""Who is told of a run while it goes on: files, TensorBoard, MLflow, Weights & Biases, or a tracker of one's own.

A tracker is named as in `--track csv:out.csv`: a name of the entry-point group `hansa.trackers`, a colon, and where to.
What is registered there is a function of that text, which makes a `Tracker`.
"""

from collections.abc import Mapping
from typing import Protocol

from hansa.messages import RunSpec

__all__ = ["Tracker"]


class Tracker(Protocol):
    """Told of one run, in this order: `begin`, `round` after each round, `end`."""

    def begin(self, spec: RunSpec, clients: int) -> None:
        """The run begins."""

    def round(self, number: int, metrics: Mapping[str, float]) -> None:
        """A round is committed. number: from 1; metrics: by whole names, as `train.loss` and `central.accuracy`."""

    def end(self, *, failed: bool) -> None:
        """The run is over; failed: it raised."""
