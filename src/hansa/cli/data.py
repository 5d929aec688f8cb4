"""`hansa data`: what the clients of an app have, and which partitions there are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hansa.cli.options import AppPath, Json, app_name, values
from hansa.cli.output import in_terminal, print_json, print_table, say

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hansa.data.statistics import Statistics

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Data: how the clients of an app share theirs.")

_MOST_LABELS = 20
"""Columns of the table."""


@commands.command()
def show(
    app: AppPath,
    *,
    clients: Annotated[int, typer.Option("--clients", "-n", min=1, help="Virtual clients, from client-0.")] = 10,
    first: Annotated[
        int | None,
        typer.Option("--first", min=1, show_default=False, help="Look at so many of them only; by default at all."),
    ] = None,
    set_config: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="KEY=VALUE", show_default=False,
            help="A setting of the app, for example partition=shards:2; may be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", dir_okay=False,
            help="Draw it: .svg, or with the extra plot .png, .pdf and others.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Show who of an app's virtual clients has how many training examples of which label.

    The data are what @app.data returns: (x, y), (train, test), or a Split. Numbers that are no classes are shown as
    labels too: give integers. With --json: the counts and the statistics as one object.
    """
    from hansa.app import load_app
    from hansa.data import drawing
    from hansa.data.statistics import count_labels, statistics
    from hansa.errors import AppError
    from hansa.messages import RunSpec
    from hansa.run import check_settings
    from hansa.simulation.clients import VirtualClients

    loaded, everybody, config = load_app(app), VirtualClients(clients), values(set_config or (), "--set")
    check_settings(loaded, RunSpec(config=config))
    names = [f"client-{k}" for k in range(min(clients, first or clients))]
    shares = [loaded.load_data(everybody.share(name), config) for name in names]
    if all(share is None for share in shares):
        raise AppError(f"{app} has no data function; decorate one with @app.data that returns a client's share")
    labels, counts = count_labels([_targets(name, share) for name, share in zip(names, shares, strict=True)])
    found = statistics(counts)
    if output is not None:
        drawing.save(output, counts, names, labels, app_name(app))
    if as_json:
        rows = {name: dict(zip(labels, row, strict=True)) for name, row in zip(names, counts.tolist(), strict=True)}
        print_json({"clients": rows, "statistics": found, "drawn": output})
        return
    _print(names, labels, counts)
    for line in _summary(found):
        say(line)
    if output is not None:
        say(f"drawn in {output}")


@commands.command()
def schemes(*, as_json: Json = False) -> None:
    """List the partitions that a name stands for, with their options."""
    import inspect

    from hansa.data.partition import ALIASES, SCHEMES, options

    found: list[dict[str, Any]] = []
    for name, function in SCHEMES.items():
        chosen = {
            key: None if parameter.default is inspect.Parameter.empty else parameter.default
            for key, parameter in options(name).items()
        }
        found.append({"name": name, "options": chosen, "what": (inspect.getdoc(function) or "").splitlines()[0]})
    found += [{"name": name, "options": {}, "what": f"the same as {scheme}"} for name, scheme in ALIASES.items()]
    columns = {
        "name": lambda s: str(s["name"]),
        "options": lambda s: " ".join(
            key if value is None else f"{key}={value}" for key, value in s["options"].items()
        ),
        "what": lambda s: str(s["what"]),
    }
    print_table(found, columns, as_json=as_json, nothing="There is no partition.")


def _targets(client: str, share: Any) -> "npt.NDArray[Any]":
    """What the client learns to tell, shape (n,)."""
    import numpy as np

    from hansa.errors import AppError

    pair = share.train if hasattr(share, "train") else share
    if isinstance(pair, tuple) and pair and isinstance(pair[0], tuple):
        pair = pair[0]
    if not isinstance(pair, tuple) or len(pair) != 2:  # noqa: PLR2004 - that is what a pair is
        raise AppError(
            f"{client} has a {type(share).__name__} as its data, in which labels cannot be told from inputs; let "
            "@app.data return (x, y), (train, test) or a hansa.data.Split"
        )
    return np.asarray(pair[1])


def _print(names: list[str], labels: tuple[str, ...], counts: "npt.NDArray[np.int64]") -> None:
    """A row for each client: its counts, shaded in a terminal, and a bar for its size."""
    shown = labels[:_MOST_LABELS]
    sizes = counts.sum(axis=1)
    bars = [_bar(size / max(int(sizes.max()), 1)) for size in sizes.tolist()]
    if not in_terminal():
        width = max(len(str(int(counts.max()))), *(len(label[:8]) for label in shown))
        left = max(map(len, names))
        say(f"{'':{left}}  {' '.join(f'{label[:8]:>{width}}' for label in shown)}  examples")
        for name, row, size, bar in zip(names, counts.tolist(), sizes.tolist(), bars, strict=True):
            cells = " ".join(f"{count or '·':>{width}}" for count in row[:_MOST_LABELS])
            say(f"{name:{left}}  {cells}  {size:>8,} {bar}".rstrip())
    else:
        _shaded(names, shown, counts, bars)
    if len(labels) > len(shown):
        say(f"and {len(labels) - len(shown)} more labels; --json or --output shows all")


def _shaded(names: list[str], shown: tuple[str, ...], counts: "npt.NDArray[np.int64]", bars: list[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("client")
    for label in shown:
        table.add_column(label[:8], justify="right")
    table.add_column("examples", justify="right")
    table.add_column("")
    most = max(int(counts.max()), 1)
    for name, row, bar in zip(names, counts.tolist(), bars, strict=True):
        cells = [
            Text(str(count) if count else "·", style=f"on {_shade(count / most)}" if count else "dim")
            for count in row[: len(shown)]
        ]
        table.add_row(Text(name), *cells, Text(f"{sum(row):,}"), Text(bar, style="cyan"))
    Console().print(table)


def _shade(share: float) -> str:
    """From a dark to a light blue."""
    return f"rgb({int(20 + 20 * share)},{int(40 + 80 * share**0.5)},{int(60 + 120 * share**0.5)})"


def _bar(share: float, width: int = 20) -> str:
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + "▏▎▍▌▋▊▉"[eighths % 8 - 1 : eighths % 8] * bool(eighths % 8)


def _summary(found: "Statistics") -> list[str]:
    return [
        "",
        f"{found.examples:,} training examples of {found.labels} labels on {found.clients} clients",
        f"sizes {found.smallest:,} to {found.largest:,}, median {found.median:,.0f}, Gini {found.size_gini:.3f}",
        f"label mixes against the whole: total variation {found.total_variation:.3f}, Hellinger {found.hellinger:.3f}",
        f"  Jensen-Shannon {found.jensen_shannon:.3f}, earth mover's {found.earth_mover:.3f} (means over clients)",
        f"a client sees {found.effective_labels:.2f} labels effectively",
    ]
