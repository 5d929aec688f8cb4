"""How far a simulation is: a bar in a terminal and in a notebook, nothing elsewhere."""

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hansa.simulation.curves import numbers_of
from hansa.simulation.table import number

__all__ = ["progress_bar"]

_SHOWN = 2

Round = Callable[[dict[str, Any]], None]
"""Called with each round, as a dictionary."""


@contextmanager
def progress_bar(wanted: bool | None, title: str, rounds: int) -> Iterator[Round | None]:  # noqa: FBT001 - as the caller was given it
    """What is to be called after each round; wanted: None for where somebody can see it redrawn."""
    if wanted is False:
        yield None
    elif (display := _notebook()) is not None:
        yield _in_notebook(display, title, rounds)
    elif wanted or sys.stderr.isatty():
        with _in_terminal(title, rounds) as each:
            yield each
    else:
        yield None


@contextmanager
def _in_terminal(title: str, rounds: int) -> Iterator[Round]:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and only needed here
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=rounds, numbers="")
        yield lambda record: bar.update(task, advance=1, numbers=_numbers(record))


def _in_notebook(display: Any, title: str, rounds: int) -> Round:
    """A progress element that is redrawn in its place; plain text where HTML is not shown."""
    began = time.perf_counter()

    def shown(done: int, numbers: str) -> dict[str, str]:
        seconds = time.perf_counter() - began
        text = f"{title}  {done}/{rounds}  {numbers}  {seconds:.0f} s"
        bar = f'<progress value="{done}" max="{rounds}" style="vertical-align:middle"></progress>'
        return {"text/plain": text, "text/html": f"{html.escape(title)} {bar} {html.escape(text[len(title) :])}"}

    handle = display(shown(0, ""), raw=True, display_id=True)
    return lambda record: handle.update(shown(record["round"], _numbers(record)), raw=True)


def _notebook() -> Any:
    """IPython's `display` in a kernel that a notebook talks to, else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return sys.modules["IPython.display"].display if shell is not None and hasattr(shell, "kernel") else None


def _numbers(record: dict[str, Any]) -> str:
    """Those that matter most: the central ones, then the clients', then training's."""
    found = list(reversed(numbers_of(record).items()))[:_SHOWN]
    return "  ".join(f"{name} {number(value)}" for name, value in found)
