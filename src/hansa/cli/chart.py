"""A small chart of one number over the rounds, in text."""

import math
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["area", "sparkline"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def sparkline(series: Sequence[float], width: int = 40) -> str:
    """One line: each column the mean of the values that fall into it, from the least (▁) to the greatest (█)."""
    columns = _columns(series, width)
    low, high = _range(columns)
    return "".join(" " if math.isnan(c) else _EIGHTHS[1 + round(7 * _share(c, low, high))] for c in columns)


def area(series: Sequence[float], width: int = 60, height: int = 4, total: int = 0) -> list[str]:
    """`height` lines with an axis at the left, from the top; total: rounds to come as well, which leave room."""
    rounds = max(total, len(series), 1)
    each = max(1, min(3, width // rounds))  # columns per value
    wide = min(width, rounds * each)
    shown = [c for c in _columns(series, max(1, width * len(series) // rounds)) for _ in range(each)]
    low, high = _range(shown)
    levels = [-1 if math.isnan(c) else 1 + round((8 * height - 1) * _share(c, low, high)) for c in shown]
    lines = []
    for row in range(height - 1, -1, -1):
        label = f"{high:.3g}" if row == height - 1 else f"{low:.3g}" if row == 0 else ""
        cells = "".join(_EIGHTHS[min(8, max(0, level - 8 * row))] for level in levels)
        lines.append(f"{label:>7} {'┤' if label else '│'}{cells.ljust(wide)}")
    return lines


def _columns(series: Sequence[float], width: int) -> list[float]:
    """At most `width` values: neighbours are averaged; what is not finite is left out of a mean."""
    count = min(len(series), max(width, 1))
    edges = [round(k * len(series) / count) for k in range(count + 1)] if count else []
    groups = [[v for v in series[a:b] if math.isfinite(v)] for a, b in pairwise(edges)]
    return [math.fsum(group) / len(group) if group else math.nan for group in groups]


def _range(columns: Sequence[float]) -> tuple[float, float]:
    finite = [c for c in columns if not math.isnan(c)]
    return (min(finite), max(finite)) if finite else (0.0, 0.0)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5
