"""Curves with bands as inline SVG, drawn with the colours of the page that they are in."""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hansa.experiments.summary import Band
from hansa.simulation.table import number

__all__ = ["COLOURS", "Chart", "Line", "drawn"]

COLOURS = 8
"""Series that the page has colours for."""

_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 10, 42
_POINTS = 400
"""The most of one line; a longer one is drawn through every k-th of its rounds, and its last."""
_LOGARITHMIC = 500.0
"""Greatest value by least, from where on the axis is logarithmic."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """One series."""

    name: str
    band: Band


@dataclass(frozen=True, slots=True)
class Chart:
    """One metric by round."""

    title: str
    note: str
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    ticks: Sequence[float]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        low, high, at = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)


def drawn(chart: Chart) -> str:
    """The chart with its legend, in which each line has its last value."""
    values = np.concatenate([part for line in chart.lines for part in (line.band.low, line.band.high)] or [np.empty(0)])
    values = values[np.isfinite(values)]
    if not len(values):
        return '<p class="dim">Nothing was measured.</p>'
    rounds = max(len(line.band.rounds) for line in chart.lines)
    x, y = _Axis(1.0, max(rounds, 2), _ticks(1.0, rounds, 6)), _vertical(float(values.min()), float(values.max()))
    label = html.escape(f"{chart.title} by round: {', '.join(line.name for line in chart.lines)}")
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">', *_grid(x, y)]
    bands = (_area(line.band, k, x, y) for k, line in enumerate(chart.lines))
    parts += [*bands, *(_curve(line, k, x, y) for k, line in enumerate(chart.lines)), "</svg>"]
    return "\n".join(filter(None, parts)) + _legend(chart.lines)


def _vertical(low: float, high: float) -> _Axis:
    if low > 0 and high / low > _LOGARITHMIC:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        step = max(1, math.ceil((last - first) / 6))
        return _Axis(10.0**first, 10.0**last, [10.0**k for k in range(first, last + 1, step)], logarithmic=True)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    ticks = _ticks(low - margin, high + margin, 5)
    return _Axis(low - margin, high + margin, ticks)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from low to high, about so many."""
    rough = (high - low) / count
    if rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _grid(x: _Axis, y: _Axis) -> Iterator[str]:
    bottom = _HEIGHT - _BOTTOM
    for tick in y.ticks:
        at = _y(tick, y)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{_label(tick, y)}</text>'
    for tick in x.ticks:
        if tick == int(tick):
            yield f'<text class="tick" x="{_x(tick, x):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:.0f}</text>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield f'<text class="tick" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">round</text>'


def _label(tick: float, axis: _Axis) -> str:
    if axis.logarithmic:
        return f"{tick:.0e}".replace("e-0", "e-").replace("e+0", "e") if not 1e-3 <= tick < 1e4 else f"{tick:g}"  # noqa: PLR2004 - as it fits
    return f"{tick:g}"


def _area(band: Band, colour: int, x: _Axis, y: _Axis) -> str:
    """The band, a piece for each unbroken run of rounds; nothing where all seeds agree."""
    pieces = []
    for run in _runs(band.low):
        if len(run) > 1 and (band.high[run] > band.low[run]).any():
            upper = [f"{_x(band.rounds[k], x):.1f},{_y(band.high[k], y):.1f}" for k in run]
            lower = [f"{_x(band.rounds[k], x):.1f},{_y(band.low[k], y):.1f}" for k in reversed(run)]
            pieces.append(f"M{' L'.join([*upper, *lower])}Z")
    return f'<path class="band s{colour % COLOURS}" d="{" ".join(pieces)}"/>' if pieces else ""


def _curve(line: Line, colour: int, x: _Axis, y: _Axis) -> str:
    pieces, dots = [], []
    for run in _runs(line.band.mean):
        points = [f"{_x(line.band.rounds[k], x):.1f},{_y(line.band.mean[k], y):.1f}" for k in run]
        pieces.append(f"M{' L'.join(points)}")
        if len(run) == 1:
            across, down = points[0].split(",")
            dots.append(f'<circle class="dot s{colour % COLOURS}" cx="{across}" cy="{down}" r="3"/>')
    title = html.escape(f"{line.name}: {number(_last(line.band.mean))}")
    path = f'<path class="line s{colour % COLOURS}" d="{" ".join(pieces)}"><title>{title}</title></path>'
    return path + "".join(dots)


def _runs(values: Floats) -> Iterator[list[int]]:
    """Positions of neighbours that were measured: where every n-th round was, these are neighbours; few of many."""
    measured = np.flatnonzero(np.isfinite(values))
    if not len(measured):
        return
    steps = np.diff(measured)
    usual = int(np.median(steps)) if len(steps) else 1
    stride = max(1, math.ceil(len(measured) / _POINTS))
    for run in np.split(measured, np.flatnonzero(steps > usual) + 1):
        few = run[::stride].tolist()
        yield few if few[-1] == run[-1] else [*few, int(run[-1])]


def _legend(lines: Sequence[Line]) -> str:
    items = "".join(
        f'<li><span class="swatch s{k % COLOURS}"></span><span>{html.escape(line.name)}</span>'
        f"<b>{number(_last(line.band.mean))}</b></li>"
        for k, line in enumerate(lines)
    )
    return f'<ul class="legend">{items}</ul>'


def _last(values: Floats) -> float:
    measured = values[np.isfinite(values)]
    return float(measured[-1]) if len(measured) else math.nan


def _x(value: float, axis: _Axis) -> float:
    return _LEFT + axis.share(float(value)) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, axis: _Axis) -> float:
    return _HEIGHT - _BOTTOM - axis.share(float(value)) * (_HEIGHT - _TOP - _BOTTOM)
