"""`hansa model`: the model trail."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hansa.cli.options import ConnectionOptions, Json, Limit, expand
from hansa.cli.output import print_json, print_record, print_table, say, size, when

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hansa.store.records import ModelRecord

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Models: every committed one, where it came from, and its file.")

Digest = Annotated[
    str, typer.Argument(metavar="MODEL", help="Digest of a model, or a beginning of it.", show_default=False)
]


@commands.command("list")
@expand
def list_models(
    server: ConnectionOptions,
    *,
    session: Annotated[str | None, typer.Option("--session", help="Only those of this session (id or name).")] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """List models, the newest first."""
    with server.connect() as api:
        found = api.sessions.get(session).id if session is not None else None
        page = api.models.list(limit=limit, sort="-created_at", session=found)
    _print(
        page.items, as_json=as_json, nothing="No model yet: `hansa session start APP`, or `hansa model upload FILE`."
    )


@commands.command()
@expand
def show(model: Digest, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Show one model."""
    with server.connect() as api:
        found = api.models.get(model)
    lines = {
        "model": found.id,
        "name": found.name,
        "session": found.session,
        "round": str(found.round),
        "parent": found.parent or "none: a seed",
        "size": size(found.size),
        "created": when(found.created_at),
    }
    if found.pruned_at is not None:
        lines["pruned"] = f"{when(found.pruned_at)} by `keep {found.pruned_by}`: its bytes are gone"
    print_record(found, lines, as_json=as_json)


@commands.command()
@expand
def download(
    model: Digest,
    server: ConnectionOptions,
    *,
    to: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="File to write; by default DIGEST.safetensors here."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model as a safetensors file, checked against its digest."""
    with server.connect() as api:
        path = api.models.download(model, to)
    if as_json:
        print_json({"path": path, "size": path.stat().st_size})
    else:
        say(f"{path} ({size(path.stat().st_size)})")


@commands.command()
@expand
def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A safetensors file.", exists=True, dir_okay=False)],
    server: ConnectionOptions,
    *,
    name: Annotated[str, typer.Option("--name", help="A name for it, for people.")] = "",
    as_json: Json = False,
) -> None:
    """Upload a model that sessions can start from (`hansa session start APP --seed-model DIGEST`)."""
    with server.connect() as api:
        record = api.models.upload(file, name)
    if as_json:
        print_json(record)
    else:
        say(f"model {record.id}")
        say(f"\nNext:\n  hansa session start APP --seed-model {record.id[:12]}")


@commands.command()
@expand
def delete(model: Digest, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Delete an uploaded model that no session, prediction or other model needs."""
    with server.connect() as api:
        gone = api.models.delete(model)
    if as_json:
        print_json(gone)
    else:
        say(f"Model {gone.id[:12]} ({size(gone.size)}) is deleted.")


@commands.command()
@expand
def lineage(
    model: Digest,
    server: ConnectionOptions,
    *,
    descendants: Annotated[
        bool, typer.Option("--descendants", help="What was made from it, in place of what it was made from.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List what a model was made from, the nearest first, back to its seed."""
    with server.connect() as api:
        page = api.models.descendants(model) if descendants else api.models.ancestors(model)
    nothing = "Nothing was made from it." if descendants else "It is a seed: it was made from nothing."
    _print(page.items, as_json=as_json, nothing=nothing)


def _print(models: "Sequence[ModelRecord]", *, as_json: bool, nothing: str) -> None:
    columns: dict[str, Callable[[ModelRecord], str]] = {
        "model": lambda m: m.id[:12],
        "session": lambda m: m.session or "seed",
        "round": lambda m: str(m.round),
        "parent": lambda m: (m.parent or "")[:12],
        "size": lambda m: size(m.size),
        "created": lambda m: when(m.created_at),
        "name": lambda m: m.name,
        "pruned": lambda m: when(m.pruned_at),
    }
    print_table(models, columns, as_json=as_json, nothing=nothing)
