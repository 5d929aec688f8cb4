"""`hansa metrics`: the numbers of a session."""

from typing import TYPE_CHECKING, Annotated

import typer

from hansa.cli.board import number
from hansa.cli.chart import sparkline
from hansa.cli.options import ConnectionOptions, Json, expand
from hansa.cli.output import in_terminal, print_json, print_table, say

if TYPE_CHECKING:
    from hansa.api.client import Client

__all__ = ["metrics"]


@expand
def metrics(
    session: Annotated[
        str, typer.Argument(metavar="SESSION", help="Id of a session, the beginning of one, or a name.")
    ],
    server: ConnectionOptions,
    *,
    name: Annotated[str | None, typer.Option("--name", help="Only this metric, for example accuracy.")] = None,
    clients: Annotated[bool, typer.Option("--clients", help="Each client's own numbers too.")] = False,
    steps: Annotated[
        bool, typer.Option("--steps", help="What clients have logged on their way, step by step, in place of it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the numbers of a session, round by round: training, evaluation on clients, evaluation beside the server.

    Of a session of parties, what each has ended with.
    """
    with server.connect() as api:
        seen = api.sessions.get(session)
        found = seen.id
        if steps:
            _steps(api, found, name, as_json=as_json)
            return
        whose = {} if clients or seen.spec.parties else {"client": ["", "central"]}
        records = sorted(
            api.metrics.all(session=found, name=name, **whose), key=lambda m: (m.name, m.kind.value, m.client, m.round)
        )
    if as_json:
        for record in records:
            print_json(record)
        return
    columns = {
        "round": lambda m: str(m.round),
        "metric": lambda m: m.name,
        "value": lambda m: number(m.value),
        "of": lambda m: f"{m.kind.value} {m.client}".strip(),
        "examples": lambda m: f"{m.num_examples:,}",
    }
    print_table(records, columns, as_json=False, nothing="No numbers yet.")
    if in_terminal():
        for what in sorted({(m.name, m.kind.value, m.client) for m in records}):
            series = [m.value for m in records if (m.name, m.kind.value, m.client) == what]
            say(f"{' '.join(filter(None, what)):24} {sparkline(series)}  {number(series[0])} → {number(series[-1])}")


def _steps(api: "Client", session: str, name: str | None, *, as_json: bool) -> None:
    """What `task.log` was given."""
    order = lambda s: (s.name, s.client, s.round, s.task, s.step)  # noqa: E731 - as long as its name
    samples = sorted(api.samples.all(session=session, name=name), key=order)
    columns = {
        "metric": lambda s: s.name,
        "client": lambda s: s.client,
        "round": lambda s: str(s.round),
        "task": lambda s: s.task,
        "step": lambda s: str(s.step),
        "value": lambda s: number(s.value),
    }
    print_table(samples, columns, as_json=as_json, nothing="No client has logged anything: `task.log({...})`.")
