"""What `hansa sweep` and `hansa bench run` show while they run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hansa.cli.output import in_terminal, say

if TYPE_CHECKING:
    from hansa.experiments.pool import Progress

__all__ = ["watched"]


@contextmanager
def watched(title: str, *, as_json: bool) -> Iterator[Callable[["Progress"], None]]:
    """What is called with each progress: a bar in a terminal, elsewhere a line for each simulation that is finished."""
    if not as_json and in_terminal():
        with _bar(title) as tell:
            yield tell
        return
    say(title, as_json=as_json)
    yield lambda progress: _line(progress, as_json=as_json)


@contextmanager
def _bar(title: str) -> Iterator[Callable[["Progress"], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[rounds]}"),
        TimeRemainingColumn(),
    ) as bar:
        task = bar.add_task(title, total=None, rounds="")

        def tell(progress: "Progress") -> None:
            rounds = f"{progress.rounds} rounds" if progress.rounds else ""
            bar.update(task, total=progress.cells, completed=progress.finished, rounds=rounds)
            told = _failure(progress)
            if told:
                bar.console.print(told, markup=False)

        yield tell


def _line(progress: "Progress", *, as_json: bool) -> None:
    if progress.cell is None:
        if progress.found and progress.finished == progress.found and not progress.rounds:
            say(f"{progress.found} of {progress.cells} were finished before", as_json=as_json)
        return
    done = f"{progress.finished}/{progress.cells}"
    say(_failure(progress) or f"{done}  {progress.cell.spec.name}, seed {progress.cell.spec.seed}", as_json=as_json)


def _failure(progress: "Progress") -> str:
    from hansa.experiments.pool import Broken

    if progress.cell is None or not isinstance(progress.outcome, Broken):
        return ""
    return f"failed: {progress.cell.spec.name}, seed {progress.cell.spec.seed}: {progress.outcome.message}"
