"""`hansa backup`: a server's data to a safe place, and back, on the machine where the server keeps them."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hansa.cli.options import Json, expand
from hansa.cli.output import counted, print_json, say, size, when

if TYPE_CHECKING:
    from hansa.settings import Settings

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Back-ups of a server; used where its data are, with its settings.")

Place = Annotated[Path, typer.Argument(metavar="PLACE", help="Folder of the back-ups.", show_default=False)]
Data = Annotated[
    Path | None, typer.Option("--data", help="The server's folder; by default HANSA_DATA, else hansa-data.")
]


@commands.command()
@expand
def create(
    place: Place,
    *,
    data: Data = None,
    keep: Annotated[
        int, typer.Option("--keep", min=1, help="The newest back-ups that stay in PLACE; older ones are removed.")
    ] = 7,
    without_lost: Annotated[
        bool, typer.Option("--without-lost", help="Go on where the server has lost an object that it needs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Back up database, objects and keys, while the server runs or not.

    What PLACE has already is not copied again. PLACE holds password hashes and private keys: its files are readable by
    their owner alone, and are to stay so wherever they are copied.
    """
    from hansa.network.controller import backup

    made = asyncio.run(backup.create(_settings(data), place, keep=keep, without_lost=without_lost))
    if as_json:
        print_json(made)
        return
    say(f"{place / made.name} is whole: {size(made.bytes)} with {counted(made.objects, 'object')}.")
    say(f"{counted(made.copied, 'object')}, {size(made.copied_bytes)}, were not in {place} yet.")
    if made.lost:
        say(f"{counted(len(made.lost), 'object')} had been lost by the server before, first {made.lost[0]}.")
    if made.removed:
        say(f"Removed {', '.join(made.removed)}.")


@commands.command()
@expand
def verify(place: Place, *, as_json: Json = False) -> None:
    """Read every byte of every back-up in PLACE; what is lost or changed is named, and the exit code is 1."""
    from hansa.errors import CorruptionError
    from hansa.store.backups import Backups

    backups = Backups(place)
    found = backups.check()
    if as_json:
        print_json(found)
        raise typer.Exit(1 if found.damages else 0)
    if found.damages:
        raise CorruptionError(
            f"{counted(len(found.damages), 'file')} of {place} are not what was written; remove those, and the next "
            "`hansa backup create` copies what it needs of them anew:\n  " + "\n  ".join(found.damages)
        )
    for name in found.backups:
        manifest = backups.manifest(name)
        lost = f", without {counted(len(manifest.lost), 'object')} that the server had lost" if manifest.lost else ""
        say(f"{name}  {when(manifest.made_at)}  {size(manifest.size)}  {manifest.engine}, hansa {manifest.hansa}{lost}")
    say(f"Every byte is there: {counted(found.objects, 'object')}, {size(found.bytes)} in all.")
    for name in found.unfinished:
        say(f"{name} was broken off, or is being made: it is no back-up.")


@commands.command()
@expand
def restore(
    place: Place,
    *,
    data: Data = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="NAME", help="Which of them; by default the newest.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Put a back-up into an empty folder, from which `hansa up` goes on.

    Where HANSA_STORE and HANSA_OBJECTS name a database and a bucket, these get their part, and have to be empty.
    Nothing is overwritten, and a folder with half a restore is never started.
    """
    from hansa.network.controller import backup

    settings = _settings(data)
    name, manifest = asyncio.run(backup.restore(settings, place, at))
    if as_json:
        print_json({"name": name, "data": settings.data, "made_at": manifest.made_at, "bytes": manifest.size})
        return
    say(f"{settings.data} is as it was on {when(manifest.made_at)}. Start it: hansa up --data {settings.data}")
    if manifest.lost:
        say(f"{counted(len(manifest.lost), 'object')} had been lost before: `hansa verify` tells of which session.")


def _settings(data: Path | None) -> "Settings":
    from hansa.settings import Settings

    given: dict[str, Any] = {} if data is None else {"data": data}
    return Settings(**given)
