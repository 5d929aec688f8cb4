"""A report as one HTML file: figures, curves, the table, notes. It asks nothing of any server, and runs no script."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from hansa.experiments.chart import Chart, Line, drawn
from hansa.experiments.summary import compact
from hansa.simulation.table import number
from hansa.store.disk import whole_file

__all__ = ["Chart", "Fact", "Line", "Report", "page", "write_report"]

_WORST, _BEST = ("✘",), ("✔", "★")


@dataclass(frozen=True, slots=True)
class Fact:
    """A key figure."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a report shows, in this order."""

    title: str
    subtitle: str
    facts: Sequence[Fact]
    charts: Sequence[Chart]
    table: Sequence[Mapping[str, Any]]
    strong: int | None = None
    """The row that stands out."""
    notes: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """Files beside it, with a word on each."""


def write_report(path: Path, report: Report) -> None:
    """Write it into a file, which is there whole or not at all."""
    with whole_file(path) as file:
        file.write(page(report).encode())


def page(report: Report) -> str:
    """The whole file."""
    style = (files("hansa.experiments") / "report.css").read_text(encoding="utf-8")
    facts = "".join(
        f"<div><dt>{_text(fact.label)}</dt><dd>{_text(fact.value)}</dd><p>{_text(fact.note)}</p></div>"
        for fact in report.facts
    )
    charts = "".join(
        f"<section><h2>{_text(chart.title)}</h2><p>{_text(chart.note)}</p>{drawn(chart)}</section>"
        for chart in report.charts
    )
    notes = "".join(f"<li>{_text(note)}</li>" for note in report.notes)
    beside = "".join(
        f'<li><a href="{_text(name)}">{_text(name)}</a> {_text(told)}</li>' for name, told in report.files.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{_text(report.title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header><h1>{_text(report.title)}</h1><p>{_text(report.subtitle)}</p></header>
<dl class="facts">{facts}</dl>
<div class="charts">{charts}</div>
<section class="table"><h2>Numbers</h2><div class="scroll">{_table(report)}</div></section>
<section class="notes"><h2>Notes</h2><ul>{notes}{beside}</ul></section>
</main>
</body>
</html>
"""


def _table(report: Report) -> str:
    columns = list(dict.fromkeys(name for row in report.table for name in row))
    numeric = {name for name in columns if any(_is_number(row.get(name)) for row in report.table)}
    side = {name: ' class="number"' if name in numeric else "" for name in columns}
    head = "".join(f'<th scope="col"{side[name]}>{_text(name)}</th>' for name in columns)
    rows = []
    for position, row in enumerate(report.table):
        cells = "".join(f"<td{side[name]}>{_cell(row.get(name))}</td>" for name in columns)
        rows.append(f"<tr{' class=strong' if position == report.strong else ''}>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value[:1] in {"+", "−", "-"} and value[1:2].isdigit()
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return '<span class="dim">—</span>'
    text = _text(number(value) if isinstance(value, float) else compact(value))
    mark = text[:1]
    kind = "good" if mark in _BEST else "bad" if mark in _WORST else ""
    return f'<span class="{kind}">{text}</span>' if kind else text


def _text(value: str) -> str:
    return html.escape(value)
