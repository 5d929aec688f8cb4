"""`hansa prediction`: what models say of clients' data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hansa.cli.options import ConnectionOptions, Json, Limit, expand, values
from hansa.cli.output import print_json, print_record, print_table, say, when

if TYPE_CHECKING:
    from hansa.store.records import PredictionRecord

__all__ = ["commands"]

commands = typer.Typer(
    no_args_is_help=True, help="Predictions: what a model says of the data of clients whose owners let it be told."
)

PredictionId = Annotated[str, typer.Argument(metavar="PREDICTION", help="Id of a prediction.", show_default=False)]


@commands.command()
@expand
def start(
    server: ConnectionOptions,
    *,
    session: Annotated[
        str | None, typer.Option("--session", help="Session whose newest model predicts, with its package.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model that predicts: its digest, or a safetensors file.")
    ] = None,
    app: Annotated[
        Path | None, typer.Option("--app", help="App whose `predict` runs on clients, in place of the session's.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="CLIENT", help="Ask this client; may be repeated.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="KEY=VALUE", help="Ask only clients with this label; may be repeated."),
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Ask so many, drawn by the seed 0.")] = None,
    deadline: Annotated[float, typer.Option("--deadline", help="Seconds after which nobody is waited for.")] = 3600.0,
    set_config: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="A setting of the app; may be repeated."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the prediction.")] = "prediction",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return at once.")] = False,
    as_json: Json = False,
) -> None:
    """Ask clients what a model predicts of their data, and wait until they have answered.

    Only those answer whose owners let predictions leave: `predictions` below `[outbound]` of their site.toml.
    """
    from hansa.messages import RoundRules

    rules = RoundRules(
        selection="all" if count is None else "count",
        count=count,
        deadline=deadline,
        only=tuple(only or ()),
        labels=tuple(label or ()),
    )
    with server.connect() as api:
        found = api.predictions.start(
            session=session, model=model, app=app, name=name, rules=rules, config=values(set_config or (), "--set")
        )
        if not detach:
            found = api.predictions.wait(found.id)
    if as_json:
        print_json(found)
    else:
        said = found.cause if not detach else "is under way"
        say(f"Prediction {found.name} ({found.id}): {said}.\n\nNext:\n  hansa prediction answers {found.id}")


@commands.command("list")
@expand
def list_predictions(server: ConnectionOptions, *, limit: Limit = 20, as_json: Json = False) -> None:
    """List predictions, the newest first."""
    with server.connect() as api:
        page = api.predictions.list(limit=limit, sort="-created_at")
    columns = {
        "id": lambda p: p.id,
        "name": lambda p: p.name,
        "state": lambda p: p.state.value,
        "answered": lambda p: f"{p.answered}/{p.asked}",
        "model": lambda p: p.model[:12],
        "created": lambda p: when(p.created_at),
    }
    print_table(page.items, columns, as_json=as_json, nothing="No prediction yet: `hansa prediction start --help`.")


@commands.command()
@expand
def show(prediction: PredictionId, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Show one prediction, and what it waits for."""
    with server.connect() as api:
        found: PredictionRecord = api.predictions.get(prediction)
        waiting = api.predictions.why(prediction)
    lines = {
        "prediction": f"{found.name} ({found.id})",
        "state": f"{found.state.value}  {waiting.sentence}",
        "answered": f"{found.answered} of {found.asked}",
        "model": found.model,
        "package": found.package or "none: clients bring their own code",
        "created": when(found.created_at),
        "ended": when(found.ended_at),
    }
    print_record(found, lines, as_json=as_json)


@commands.command()
@expand
def answers(
    prediction: PredictionId,
    server: ConnectionOptions,
    *,
    client: Annotated[str | None, typer.Option("--client", help="Only of this client.")] = None,
    to: Annotated[
        Path | None,
        typer.Option("--output", "-o", file_okay=False, help="Folder for a file CLIENT.json of each answer."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print what clients have predicted, or why they did not; or write it to files."""
    with server.connect() as api:
        found = list(api.predictions.answers(prediction, client))
    if to is not None:
        to.mkdir(parents=True, exist_ok=True)
        for answer in found:
            if answer.document is not None:
                (to / f"{answer.client}.json").write_text(answer.document, encoding="utf-8")
    if as_json:
        for answer in found:
            print_json(answer)
        return
    for answer in found:
        if answer.document is None:
            say(f"{answer.client}  none: {answer.reason}")
        else:
            say(f"{answer.client}  {to / f'{answer.client}.json' if to is not None else answer.document}")


@commands.command()
@expand
def stop(prediction: PredictionId, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Ask no more; what was answered is kept."""
    with server.connect() as api:
        found = api.predictions.stop(prediction)
    print_record(found, {"prediction": f"{found.name} ({found.id})", "state": found.cause}, as_json=as_json)


@commands.command()
@expand
def delete(prediction: PredictionId, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Delete a prediction that is over, with its answers."""
    with server.connect() as api:
        found = api.predictions.get(prediction)
        api.predictions.delete(prediction)
    print_record(found, {"deleted": f"{found.name} ({found.id})"}, as_json=as_json)
