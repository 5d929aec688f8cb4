"""`hansa verify`: is the record of a session what it was when it was written?"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hansa.cli.options import ConnectionOptions, Json, expand, pairs
from hansa.cli.output import counted, print_json, say

if TYPE_CHECKING:
    from hansa.evidence.findings import Known, Verification

__all__ = ["verify"]

_KEY = re.compile(r"ed25519:[0-9a-f]{64}")


@expand
def verify(
    server: ConnectionOptions,
    *,
    session: Annotated[
        str | None,
        typer.Argument(metavar="[SESSION]", help="Id of a session, the beginning of one, or its name."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option("--head", help="A link that the chain must contain: it shows whether later rounds were lost."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle", exists=True, dir_okay=False, help="Check this file, which `hansa session export` wrote."
        ),
    ] = None,
    server_key: Annotated[
        list[str] | None,
        typer.Option("--server-key", metavar="ED25519:…", help="With --bundle: a key that signs for the server."),
    ] = None,
    client_key: Annotated[
        list[str] | None,
        typer.Option("--client-key", metavar="NAME=ED25519:…", help="With --bundle: the key of a client."),
    ] = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option(
            "--receipts", metavar="FILE", exists=True, dir_okay=False, help="With --bundle: a client's receipts.jsonl."
        ),
    ] = None,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="With --bundle: rounds from before hansa signed may be in it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a session's whole record: its rounds, who was counted, every signature, and every byte of every model.

    Each model is computed anew, where the session keeps what its rounds have added (--keep '…, aggregates').

    The server checks its own record; with --bundle you check what it has exported, here, and need no server. What is
    lost or changed is named, and the exit code is 1. A record that was made up as a whole can only be told by what you
    know from elsewhere: compare the keys that are printed with `hansa keys list` and `hansa client inspect`, or give
    them with --server-key and --client-key; give the receipts that clients have kept; keep the link that is printed,
    and give it with --head, for example after a backup was restored.
    """
    from hansa.errors import InputError

    if (session is None) == (bundle is None):
        raise InputError("name a session for its server to check, or give a file with --bundle: one of the two")
    if bundle is not None:
        known = _known(head, server_key, client_key, receipts)
        found = _checked(bundle, known, allow_unsigned=allow_unsigned)
    elif server_key or client_key or receipts or allow_unsigned:
        raise InputError("keys and receipts are for --bundle: a server checks its record by what it keeps itself")
    else:
        with server.connect() as api:
            found = api.sessions.verify(session or "", head)
    if as_json:
        print_json(found)
    else:
        _tell(found, is_bundle=bundle is not None)


def _checked(file: Path, known: "Known", *, allow_unsigned: bool) -> "Verification":
    from hansa.errors import CorruptionError
    from hansa.evidence.bundle import open_bundle, verify_bundle

    with file.open("rb") as opened:
        found = verify_bundle(open_bundle(opened), known)
    if found.unsigned and not allow_unsigned:
        raise CorruptionError(
            f"{found.unsigned} updates and evaluations in {file} are not signed by anybody: they are of rounds before "
            "hansa signed, or the signatures were taken out; with --allow-unsigned the rest is checked"
        )
    return found


def _known(
    head: str | None, server_key: list[str] | None, client_key: list[str] | None, files: list[Path] | None
) -> "Known":
    from hansa.errors import InputError
    from hansa.evidence.findings import Known
    from hansa.evidence.receipts import read_receipts

    clients = pairs(client_key or [], "--client-key")
    for option, key in [("--server-key", key) for key in server_key or ()] + [
        (f"--client-key {name}", key) for name, key in clients.items()
    ]:
        if not _KEY.fullmatch(key):
            raise InputError(
                f"{option}: {key!r} is no public key, which is `ed25519:` and 64 hexadecimal digits, as `hansa keys "
                "list` and `hansa client inspect` print them"
            )
    return Known(
        head,
        tuple(server_key or ()),
        clients,
        tuple(receipt for file in files or () for receipt in read_receipts(file)),
    )


def _tell(found: "Verification", *, is_bundle: bool) -> None:
    say(f"{found.rounds} rounds with {found.contributions} contributions form one chain, with {found.events} events;")
    say(f"{found.updates} updates and {found.reports} evaluations are signed by their clients;")
    say(f"{found.objects} models, states and aggregates, {found.bytes:,} bytes, are what was recorded.")
    if found.recomputed:
        say(f"{found.recomputed} of {found.rounds} models were computed anew, and are what was committed.")
    if found.obstacle:
        say(f"{found.not_recomputed} models could not be computed anew: {found.obstacle}.")
    elif found.not_recomputed:
        what = "it does not hold" if is_bundle else "the server does not keep"
        say(f"{found.not_recomputed} models could not be computed anew: {what} what they were made from.")
    if found.unsigned:
        say(f"{found.unsigned} updates and evaluations are of rounds before hansa signed, and signed by nobody.")
    if found.pruned:
        where = "are not in it" if is_bundle else "were pruned by policy"
        say(f"{found.pruned} models, states and aggregates {where}, and could not be read.")
    if found.rounds:
        say("The session is over, and its end is signed." if found.sealed else "Its end is not signed: it may go on.")
    _tell_keys(found)
    if found.head:
        say(f"link of the last round: {found.head}")


def _tell_keys(found: "Verification") -> None:
    if found.handovers:
        say(f"{counted(found.handovers, 'change')} of a client's key, signed with the key before and after.")
    for key in found.servers:
        say(f"signed for the server: {key}")
    for name, keys in found.clients.items():
        say(f"signed for {name}: {', '.join(keys)}")
