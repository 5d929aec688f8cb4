"""The numbers of a simulation by round: one array per metric, and its picture."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hansa.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PARTS", "Curves", "curves_of", "numbers_of", "plot", "shown_figure"]

Curves = Mapping[str, npt.NDArray[np.float64]]
"""Metric → its value by round, shape (rounds,), NaN where it was not measured; `round` has their numbers, from 1."""

PARTS = {"train": "metrics", "clients": "evaluation", "central": "central"}
"""First part of a metric's name → the field of a round's record that it is from."""

_SEEN_FIRST = ("accuracy", "loss")


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of one round by their whole names: train.loss, clients.accuracy, central.accuracy.

    record: a `RoundRecord` as a dictionary.
    """
    return {
        f"{part}.{name}": np.nan if value is None else float(value)
        for part, field in PARTS.items()
        for name, value in sorted(record[field].items())
    }


def curves_of(records: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[np.float64]]:
    """See `Curves`; records: rounds as dictionaries."""
    rows = [numbers_of(record) for record in records]
    found = _Named({"round": np.array([record["round"] for record in records], np.float64)})
    for name in dict.fromkeys(name for row in rows for name in row):
        found[name] = np.array([row.get(name, np.nan) for row in rows])
    return found


class _Named(dict[str, npt.NDArray[np.float64]]):
    """Says what there is where there is no such metric."""

    def __missing__(self, name: str) -> npt.NDArray[np.float64]:
        raise KeyError(f"there is no metric {name!r}; there is: {', '.join(self)}")


def plot(curves: Curves, metrics: Sequence[str] | None, title: str) -> "Figure":
    """One panel per kind of metric (accuracy, loss …), a line for each part; metrics: whole names, None for all."""
    figure_of = shown_figure("SimulationResult.plot")
    known = [name for name in curves if name != "round"]
    unknown = [name for name in metrics or () if name not in known]
    if unknown or not known:
        raise InputError(f"there is no metric {', '.join(unknown)}; there is: {', '.join(known) or 'none'}")
    panels: dict[str, list[str]] = {}
    for name in metrics or known:
        panels.setdefault(name.partition(".")[2], []).append(name)
    order = sorted(panels, key=lambda kind: (kind not in _SEEN_FIRST, kind))
    figure = figure_of(order)
    figure.suptitle(title)
    for axes, kind in zip(figure.axes, order, strict=True):
        for name in panels[kind]:
            measured = np.isfinite(curves[name])
            style = "o-" if measured.sum() < 2 else "-"  # noqa: PLR2004 - of one point a line shows nothing
            axes.plot(curves["round"][measured], curves[name][measured], style, label=name.partition(".")[0])
        axes.legend()
    return figure


def shown_figure(what: str) -> "Callable[[Sequence[str]], Figure]":
    """What makes a figure with a panel for each of some names, by round; `MissingExtraError` names what it is for."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise MissingExtraError(what, "plot") from error

    class Shown(Figure):
        """Shows itself in notebooks, whether or not they have set a backend of matplotlib's."""

        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png", dpi=150)
            return picture.getvalue()

    def made(names: Sequence[str]) -> Figure:
        figure = Shown(figsize=(5.2 * len(names), 3.6), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            axes.set_xlabel("round")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_ylabel(name)
            axes.grid(alpha=0.3)
        return figure

    return made
