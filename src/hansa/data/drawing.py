"""A partition as a picture: bubbles of clients and labels above a histogram of sizes, as SVG, or by matplotlib."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hansa.data.parts import Partition
from hansa.data.statistics import partition_labels
from hansa.errors import InputError, MissingExtraError

__all__ = ["Picture", "save", "svg"]

_CELL = 24
"""Pixels from one bubble to the next."""
_LEFT, _TOP = 96, 56
_BARS = 120
"""Pixels of the histogram's height."""
_BINS = 20
_BLUE, _GREY = "#2f6f9f", "#5b6570"
_MAX_CELLS = 100_000


class Picture:
    """A partition as a picture, which a notebook shows."""

    def __init__(self, parts: Partition, labels: npt.ArrayLike, title: str = "") -> None:
        """labels: of all samples, shape (n,); a row of the picture is one of them, a column a client."""
        names = np.unique(np.asarray(labels))
        self._drawn = (
            partition_labels(parts, labels),
            [str(k) for k in range(len(parts))],
            [str(name) for name in names.tolist()],
            title,
        )

    def save(self, path: str | Path) -> None:
        """Draw into a file, as `save`."""
        save(path, *self._drawn)

    def _repr_svg_(self) -> str:
        return svg(*self._drawn)


def save(
    path: str | Path, counts: npt.NDArray[np.int64], clients: Sequence[str], labels: Sequence[str], title: str = ""
) -> None:
    """Draw into a file: `.svg` as `svg` does; `.png`, `.pdf` and what else matplotlib can, with the extra `plot`."""
    file = Path(path)
    if file.suffix.lower() == ".svg":
        file.write_text(svg(counts, clients, labels, title), encoding="utf-8")
    else:
        _by_matplotlib(file, counts, clients, labels, title)


def svg(counts: npt.NDArray[np.int64], clients: Sequence[str], labels: Sequence[str], title: str = "") -> str:
    """An SVG document that loads nothing from elsewhere.

    A bubble's area is in proportion to how many examples of a label, the row, a client, the column, has; below is how
    many clients have how many examples. counts: shape (clients, labels).
    """
    _check(counts, clients, labels)
    width = _LEFT + max(_CELL * len(clients), 240) + 24
    bottom = _TOP + _CELL * len(labels)
    height = bottom + 96 + _BARS + 56
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11" fill="{_GREY}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="28" font-size="15" fill="#1d2329">{escape(title)}</text>',
    ]
    most = max(int(counts.max()), 1)
    for row, label in enumerate(labels):
        y = _TOP + _CELL * row + _CELL // 2
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(_short(label))}</text>')
        for column in np.flatnonzero(counts[:, row]).tolist():
            x = _LEFT + _CELL * column + _CELL // 2
            count = int(counts[column, row])
            radius = max(0.6, (_CELL / 2 - 1) * (count / most) ** 0.5)
            said = escape(f"{clients[column]}: {count:,} of {label}")
            parts.append(f'<circle cx="{x}" cy="{y}" r="{radius:.2f}" fill="{_BLUE}"><title>{said}</title></circle>')
    for column, client in enumerate(clients):
        x = _LEFT + _CELL * column + _CELL // 2 + 4
        y = bottom + 8
        parts.append(
            f'<text transform="translate({x} {y}) rotate(-90)" text-anchor="end">{escape(_short(client))}</text>'
        )
    parts += [*_histogram(counts.sum(axis=1), bottom + 96), "</svg>"]
    return "\n".join(parts) + "\n"


def _histogram(sizes: npt.NDArray[np.int64], top: int) -> list[str]:
    """How many clients have how many examples."""
    heights, edges = np.histogram(sizes, bins=min(_BINS, max(1, len(np.unique(sizes)))))
    step = 240 / len(heights)
    base = top + _BARS
    parts = [f'<text x="{_LEFT}" y="{top - 6}">clients by their number of examples</text>']
    for place, count in enumerate(heights.tolist()):
        tall = _BARS * count / max(heights.max(), 1)
        said = f"{count} clients with {edges[place]:.0f} to {edges[place + 1]:.0f} examples"
        parts.append(
            f'<rect x="{_LEFT + step * place:.1f}" y="{base - tall:.1f}" width="{max(step - 1, 0.5):.1f}" '
            f'height="{tall:.1f}" fill="{_BLUE}"><title>{said}</title></rect>'
        )
    parts.append(f'<line x1="{_LEFT}" y1="{base}" x2="{_LEFT + 240}" y2="{base}" stroke="{_GREY}"/>')
    for x, text, anchor in ((_LEFT, edges[0], "start"), (_LEFT + 240, edges[-1], "end")):
        parts.append(f'<text x="{x}" y="{base + 14}" text-anchor="{anchor}">{text:,.0f}</text>')
    return [*parts, f'<text x="{_LEFT - 10}" y="{top + 10}" text-anchor="end">{heights.max()}</text>']


def _by_matplotlib(
    file: Path, counts: npt.NDArray[np.int64], clients: Sequence[str], labels: Sequence[str], title: str
) -> None:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError(f"a picture in the format {file.suffix or '(none)'}", "plot") from error
    _check(counts, clients, labels)
    inches = (max(4.0, 1.5 + 0.3 * len(clients)), 3.5 + 0.3 * len(labels))
    figure = Figure(figsize=inches, layout="constrained")
    bubbles, bars = figure.subplots(2, 1, height_ratios=[max(1, len(labels)), 6])
    columns, rows = np.nonzero(counts)
    areas = 180 * counts[columns, rows] / max(int(counts.max()), 1)
    bubbles.scatter(columns, rows, s=areas, c=_BLUE, linewidths=0)
    bubbles.set_xticks(range(len(clients)), [_short(client) for client in clients], rotation=90)
    bubbles.set_yticks(range(len(labels)), [_short(label) for label in labels])
    bubbles.invert_yaxis()
    bubbles.set_title(title)
    bubbles.set_ylabel("label")
    sizes = counts.sum(axis=1)
    bins = min(_BINS, int(np.ptp(sizes)) + 1)
    bars.hist(sizes, bins=bins, range=(sizes.min() - 0.5, sizes.max() + 0.5), color=_BLUE, edgecolor="white")
    bars.set_xlabel("examples")
    bars.set_ylabel("clients")
    for axis in (bars.xaxis, bars.yaxis):
        axis.get_major_locator().set_params(integer=True)
    try:
        figure.savefig(file)
    except ValueError as error:  # a format that it does not know
        raise InputError(f"{file} cannot be drawn: {error}; use .svg, .png or .pdf") from error


def _check(counts: npt.NDArray[np.int64], clients: Sequence[str], labels: Sequence[str]) -> None:
    if counts.shape != (len(clients), len(labels)) or not counts.size:
        raise InputError(f"counts are of shape {counts.shape} for {len(clients)} clients and {len(labels)} labels")
    if counts.size > _MAX_CELLS:
        raise InputError(f"{len(clients)} clients by {len(labels)} labels are too many to draw; show fewer clients")


def _short(text: str) -> str:
    return text if len(text) <= 14 else f"{text[:13]}…"  # noqa: PLR2004 - what fits
