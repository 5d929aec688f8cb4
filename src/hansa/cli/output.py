"""How results are printed: a table or a paragraph for a person, JSON for a program."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import typer

__all__ = [
    "counted",
    "in_terminal",
    "labels_of",
    "print_json",
    "print_record",
    "print_table",
    "relative",
    "say",
    "size",
    "span",
    "when",
]


def in_terminal() -> bool:
    """Whether standard output is a terminal that can show colours and redraw lines; not with NO_COLOR or TERM=dumb."""
    if not sys.stdout.isatty():
        return False
    from rich.console import Console

    console = Console()
    return not (console.no_color or console.is_dumb_terminal)


def say(text: str, *, as_json: bool = False) -> None:
    """A line for a person, who reads it as it is: on standard output, which is a program's with `--json`."""
    from hansa.network.terminal import harmless

    typer.echo(harmless(text), err=as_json)


def counted(number: int, what: str) -> str:
    """`1 round`, `1,000 rounds`; what: one of them."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def print_json(value: Any) -> None:
    """One value as one line of JSON."""
    typer.echo(json.dumps(_plain(value), ensure_ascii=False))


def print_table(
    records: Sequence[Any], columns: Mapping[str, Callable[[Any], str]], *, as_json: bool, nothing: str
) -> None:
    """Records as a table, or as one JSON object per line. nothing: what a person is told when there are none."""
    if as_json:
        for record in records:
            print_json(record)
        return
    if not records:
        typer.echo(nothing)
        return
    rows = [[show(record) for show in columns.values()] for record in records]
    if in_terminal():
        _rich_table(list(columns), rows)
        return
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    for row in [list(columns), *rows]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_record(record: Any, lines: Mapping[str, str], *, as_json: bool) -> None:
    """One record: each of its lines with a label, or the whole as JSON."""
    if as_json:
        print_json(record)
        return
    width = max(map(len, lines), default=0)
    for label, text in lines.items():
        shown = typer.style(label.ljust(width), dim=True) if in_terminal() else label.ljust(width)
        typer.echo(f"{shown}  {text}".rstrip())


def relative(path: Path) -> Path:
    """The path as it is shortest from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def labels_of(labels: Mapping[str, str]) -> str:
    """Labels as they are given: region=eu site=north."""
    return " ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def when(at: float | None) -> str:
    """POSIX seconds as local date and time; empty for None."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def span(seconds: float) -> str:
    """A length of time: 0.12 s, 34 s, 5 min 3 s, 2 h 10 min."""
    if seconds < 10:  # noqa: PLR2004 - from here on, tenths say nothing
        return f"{seconds:.2f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(count: float) -> str:
    """Bytes: 812 B, 2.6 kB, 41 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:  # noqa: PLR2004 - SI prefixes
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _rich_table(headings: Iterable[str], rows: Iterable[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _plain(value: Any) -> Any:
    """What JSON knows: records become objects, and a number that is NaN or infinite becomes null."""
    match value:
        case Enum():
            plain = value.value
        case float():
            plain = value if math.isfinite(value) else None
        case str() | int() | None:
            plain = value
        case Mapping():
            plain = {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            plain = [_plain(item) for item in value]
        case _ if is_dataclass(value):
            plain = {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
        case _:
            plain = str(value)
    return plain
