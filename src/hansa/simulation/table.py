"""Rows with the same columns, for a person, a notebook, a spreadsheet."""

import csv
import html
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from hansa.store.disk import whole_file

__all__ = ["Table", "number"]


class Table(Sequence[Mapping[str, Any]]):
    """Rows as dictionaries; a column that a row lacks is None there.

    It prints as text, shows itself in notebooks, and `pandas.DataFrame(table)` reads it.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """rows: copied; the columns are in the order in which they first appear."""
        given = [dict(row) for row in rows]
        self.columns: tuple[str, ...] = tuple(dict.fromkeys(name for row in given for name in row))
        self._rows = [{name: row.get(name) for name in self.columns} for row in given]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, position: slice) -> "Table": ...
    def __getitem__(self, position: int | slice) -> "Mapping[str, Any] | Table":
        return Table(self._rows[position]) if isinstance(position, slice) else self._rows[position]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.csv() == other.csv()

    def __hash__(self) -> int:
        return hash(self.csv())

    def csv(self) -> str:
        """As comma-separated values: numbers to their last bit, empty where there is none."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_exact(value) for value in row.values()] for row in self._rows)
        return text.getvalue()

    def to_csv(self, path: str | Path) -> None:
        """Write `csv()` into a file, which is there whole or not at all."""
        with whole_file(Path(path)) as file:
            file.write(self.csv().encode())

    def latex(self) -> str:
        """As a `tabular` of LaTeX, with the rules of its package booktabs; numbers as people read them."""
        rows = [[_tex(number(value)) for value in row.values()] for row in self._rows]
        numeric = [all(isinstance(row[name], int | float | None) for row in self._rows) for name in self.columns]
        head = " & ".join(map(_tex, self.columns))
        lines = [rf"\begin{{tabular}}{{{''.join('r' if is_so else 'l' for is_so in numeric)}}}", r"\toprule"]
        lines += [rf"{head} \\", r"\midrule", *(rf"{' & '.join(row)} \\" for row in rows), r"\bottomrule"]
        return "\n".join([*lines, r"\end{tabular}"]) + "\n"

    def to_latex(self, path: str | Path) -> None:
        """Write `latex()` into a file, which is there whole or not at all."""
        with whole_file(Path(path)) as file:
            file.write(self.latex().encode())

    def __str__(self) -> str:
        cells = [[number(value) for value in row.values()] for row in self._rows]
        widths = [max(map(len, column)) for column in zip(self.columns, *cells, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in [self.columns, *cells]
        ]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        rows = "".join(
            "<tr>"
            + "".join(f'<td style="text-align:right">{html.escape(number(v))}</td>' for v in row.values())
            + "</tr>"
            for row in self._rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def number(value: Any) -> str:
    """As people read it: four digits of a broken number, a dash for none, anything else as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "—"
    if not isinstance(value, float):
        return str(value)
    if value.is_integer() and abs(value) < 1e6:  # noqa: PLR2004 - as it fits
        return f"{value:.0f}" if value else "0"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.3e}"  # noqa: PLR2004 - the same


_TEX = str.maketrans(
    {each: rf"\{each}" for each in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "—": "--"}
)


def _tex(text: str) -> str:
    return text.translate(_TEX)


def _exact(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)
