"""`hansa keys`: the key that signs the tokens of a server, changed where the server keeps it."""

from pathlib import Path
from typing import Annotated

import typer

from hansa.cli.options import Json, expand
from hansa.cli.output import print_json, say

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="The key that signs a server's tokens; used where its data are.")

Data = Annotated[
    Path | None, typer.Option("--data", help="The server's folder; by default HANSA_DATA, else hansa-data.")
]


@commands.command("list")
@expand
def list_keys(*, data: Data = None, as_json: Json = False) -> None:
    """Show the public keys: they verify tokens, and what the server has signed of sessions. Give them to verifiers."""
    from hansa.network.controller.signing_keys import public_keys

    found = public_keys(_folder(data))
    if as_json:
        print_json({"keys": found})
        return
    for key, since in zip(found, ("signs", *("signed before",) * len(found)), strict=False):
        say(f"{key}  {since}")


@commands.command()
@expand
def rotate(*, data: Data = None, as_json: Json = False) -> None:
    """Sign with a fresh key from the server's next start on. Tokens that were made before hold still."""
    from hansa.network.controller.signing_keys import rotate_keys

    folder = _folder(data)
    rotate_keys(folder)
    if as_json:
        print_json({"folder": folder, "rotated": True})
        return
    say(
        f"{folder} has a new key. Restart the server: sessions go on, and nodes get tokens of the new key by "
        "themselves. When people have new ones too: hansa keys forget"
    )


@commands.command()
@expand
def forget(*, data: Data = None, as_json: Json = False) -> None:
    """Refuse what former keys have signed, from the server's next start on."""
    from hansa.network.controller.signing_keys import forget_former_keys

    folder = _folder(data)
    forgotten = forget_former_keys(folder)
    if as_json:
        print_json({"folder": folder, "forgotten": forgotten})
    elif forgotten:
        say(f"From the next start of the server on, what former keys of {folder} have signed is refused.")
    else:
        say(f"{folder} has one key, and no former one.")


def _folder(data: Path | None) -> Path:
    from hansa.settings import Settings

    return (data or Settings().data) / "keys"
