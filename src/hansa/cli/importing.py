"""`hansa import`: what another system has trained, into a project."""

from pathlib import Path
from typing import Annotated

import typer

from hansa.cli.options import ConnectionOptions, Json, expand
from hansa.cli.output import print_json, say

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Bring in what another system has trained.")


@commands.callback()
def _group() -> None:
    """Keep `fedn` a command of its own: others will stand beside it."""


@commands.command()
@expand
def fedn(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", exists=True, file_okay=False, show_default=False,
                       help="Model files, each called by its model's id."),
    ],
    dump: Annotated[
        Path,
        typer.Option("--dump", exists=True, dir_okay=False, show_default=False,
                     help="FEDn's models as JSON: mongoexport of control.model, bsondump, or GET /api/v1/models/."),
    ],
    server: ConnectionOptions,
    *,
    helper: Annotated[str, typer.Option("--helper", help="The format of the model files.")] = "numpyhelper",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Import FEDn's model trail: every model with its file, its name or former id, and the one that it was made from.

    A model is known by its digest here. What is imported already stays as it is, so an import that was broken off may
    be run again.
    """
    from hansa.compat.fedn.trail import load_model, read_trail

    models, without = read_trail(dump, folder)
    digests: dict[str, str] = {}
    with server.connect() as api:
        for model in models:
            record = api.models.upload(load_model(model, helper), model.name, parent=digests.get(model.parent))
            digests[model.id] = record.id
            if not as_json:
                say(f"{model.id} is {record.id[:12]}…")
    if as_json:
        print_json({"models": digests, "without_file": without})
        return
    say(f"Imported {len(digests)} models.")
    if without:
        say(f"{len(without)} have no file in {folder}: {', '.join(without[:5])}{' …' if len(without) > 5 else ''}")  # noqa: PLR2004 - as many as fit a line
