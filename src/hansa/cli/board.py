"""Rounds as they happen: a table that grows, a bar and a chart in a terminal, one plain line per round elsewhere."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import typer

from hansa.cli.chart import area
from hansa.cli.output import in_terminal, span

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Board", "LiveBoard", "PlainBoard", "Row", "open_board"]

_METRICS_SHOWN = 3
_FIRST = ("accuracy", "loss")
"""The metrics that come first, where there are some of these names."""


@dataclass(frozen=True, slots=True)
class Row:
    """One round, as it is shown."""

    round: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    accepted: int = 0
    rejected: int = 0
    failed: int = 0
    missing: int = 0
    seconds: float = 0.0
    names: tuple[str, ...] = ()
    """Clients that did not make it, with a word on each."""


class Board(Protocol):
    """Where rounds are shown."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Leave what was shown as it is."""

    def row(self, row: Row) -> None:
        """A round is done."""

    def status(self, text: str) -> None:
        """What goes on now, in few words; the next text takes its place."""

    def say(self, text: str) -> None:
        """A line that stays."""


def open_board(title: str, total: int, *, as_json: bool, done: int = 0) -> Board:
    """The board for this output. total: rounds of the run; done: those committed before. Plain to stderr with JSON."""
    if not as_json and in_terminal():
        return LiveBoard(title, total, done)
    return PlainBoard(title, total, to_stderr=as_json)


class PlainBoard:
    """One line per round."""

    def __init__(self, title: str, total: int, *, to_stderr: bool = False) -> None:
        """title: the first line."""
        self._title, self._total, self._err = title, total, to_stderr
        self._names: list[str] = []

    def __enter__(self) -> Self:
        """Say what follows."""
        self.say(self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Every line is out already."""

    def row(self, row: Row) -> None:
        """See `Board`."""
        self._names = self._names or shown_metrics(row.metrics)
        metrics = "".join(f"  {name} {number(row.metrics.get(name))}" for name in self._names)
        width = len(str(self._total))
        counts = f"{row.accepted} accepted, {row.rejected} rejected"
        counts += f", {row.failed} failed" if row.failed else ""
        counts += f", {row.missing} missing" if row.missing else ""
        self.say(f"round {row.round:{width}}/{self._total}{metrics}  {counts}  {span(row.seconds)}")
        for name in row.names:
            self.say(f"  {name}")

    def status(self, text: str) -> None:
        """Too much for a log."""

    def say(self, text: str) -> None:
        """See `Board`."""
        typer.echo(text, err=self._err)
        (sys.stderr if self._err else sys.stdout).flush()


class LiveBoard:
    """Rows scroll by as in a log; below them stay a chart, a bar and a word on what goes on."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        """See `open_board`."""
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._title, self._total, self._before, self._done = title, total, done, done
        self._names: list[str] = []
        self._series: list[float] = []
        self._status = ""
        self._began = time.monotonic()
        self._live = Live(console=self._console, refresh_per_second=8, transient=False, get_renderable=self._below)

    def __enter__(self) -> Self:
        """Draw the title, and from now on what stays below."""
        self._console.print(f"\n[bold]{self._title}[/bold]\n", markup=True)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Draw once more, and leave it."""
        self._status = ""
        self._live.stop()

    def row(self, row: Row) -> None:
        """See `Board`."""
        if not self._names:
            self._names = shown_metrics(row.metrics)
            heading = "".join(f"{name[:12]:>12}" for name in self._names)
            self._console.print(f"  [dim]round{heading}  accepted  rejected        time[/dim]")
        metrics = "".join(f"{number(row.metrics.get(name)):>12}" for name in self._names)
        lost = row.rejected + row.failed + row.missing
        rejected = f"{row.rejected:>10}" if not row.rejected else f"[red]{row.rejected:>10}[/red]"
        self._console.print(
            f"  {row.round:>5}[bold]{metrics[:12]}[/bold]{metrics[12:]}{row.accepted:>10}{rejected}"
            f"[dim]{span(row.seconds):>12}[/dim]" + (f"  [yellow]{_lost(row)}[/yellow]" if lost else "")
        )
        for name in row.names:
            self._console.print(f"        [dim]{name}[/dim]")
        self._done = max(self._done, row.round)
        if self._names:
            self._series.append(row.metrics.get(self._names[0], math.nan))
        self._status = ""
        self._live.refresh()

    def status(self, text: str) -> None:
        """See `Board`."""
        self._status = text

    def say(self, text: str) -> None:
        """See `Board`."""
        self._console.print(text, markup=False)

    def _below(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        parts: list[RenderableType] = [Text()]
        room = max(self._console.width - 12, 10)
        if len(self._series) > 1:
            lines = area(self._series, min(60, room), total=self._total - self._before)
            parts.append(Text(f"          {self._names[0]}", style="dim"))
            parts.append(Text("\n".join(lines), style="cyan"))
            parts.append(Text())
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            Text("  "),
            ProgressBar(total=self._total, completed=self._done, width=min(40, room)),
            Text(f"{self._done}/{self._total}"),
            Text(self._remaining(), style="dim"),
        )
        parts.append(bar)
        if self._status:
            parts.append(Text(f"    {self._status}", style="dim"))
        return Group(*parts)

    def _remaining(self) -> str:
        spent = time.monotonic() - self._began
        done = self._done - self._before
        if self._done >= self._total:
            return span(spent)
        return f"{span(spent)}, about {span(spent / done * (self._total - self._done))} left" if done else span(spent)


def shown_metrics(metrics: Mapping[str, float]) -> list[str]:
    """The few that fit into a line: accuracy and loss first, then by name."""
    first = [name for wanted in _FIRST for name in metrics if name == wanted]
    rest: Sequence[str] = sorted(name for name in metrics if name not in first)
    return [*first, *rest][:_METRICS_SHOWN]


def number(value: float | None) -> str:
    """Four digits, or a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.3e}"  # noqa: PLR2004 - as it fits


def _lost(row: Row) -> str:
    parts = [(row.failed, "failed"), (row.missing, "missing")]
    return ", ".join(f"{count} {what}" for count, what in parts if count)
