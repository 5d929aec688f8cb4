"""`hansa client approve` and `inspect`: a data owner's own commands, on the machine and in the folder of a client."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hansa.cli.joining import Work, work_folder
from hansa.cli.options import Json, expand
from hansa.cli.output import counted, print_json, say, size
from hansa.cli.package import print_package

if TYPE_CHECKING:
    from hansa.messages import ClientInfo
    from hansa.network.client.confinement import Confinement
    from hansa.network.client.policy import SitePolicy

__all__ = ["SiteFile", "approve", "confinement", "inspect", "policy_of", "tell"]

SiteFile = Annotated[
    Path | None,
    typer.Option("--site", help="The owner's site.toml: what may run here, and what may leave.", show_default=False),
]
_SHOWN = 20
"""Departures that `inspect` lists."""


@expand
def approve(
    session: Annotated[
        str, typer.Argument(metavar="SESSION", help="Id of the session, or a beginning that is unique.")
    ],
    *,
    work: Work = None,
    deny: Annotated[bool, typer.Option("--deny", help="Refuse it instead; the session is told.")] = False,
    as_json: Json = False,
) -> None:
    """Let a session run on this site, as it was asked for; another package or run is asked for again."""
    from hansa.network.client.approvals import Approvals

    request = Approvals(work_folder(work)).say(session, approved=not deny)
    if as_json:
        print_json({"session": request.session, "approved": not deny})
    else:
        say(f"session {request.session} ({request.name}) is {'refused' if deny else 'approved'}")


@expand
def inspect(*, work: Work = None, site: SiteFile = None, as_json: Json = False) -> None:
    """Show what would run on this site, what waits for approval, and what has left it so far."""
    from hansa.errors import HansaError
    from hansa.evidence.receipts import RECEIPTS
    from hansa.messages import ClientInfo
    from hansa.network.client.approvals import Approvals
    from hansa.network.client.ledger import LEDGER, departures
    from hansa.packages.package import SUFFIX
    from hansa.packages.package import read as opened

    folder = work_folder(work)
    walls = confinement(folder, ClientInfo("inspect"), policy_of(site), ())
    packages: list[dict[str, Any]] = []
    for file in sorted((folder / "packages").glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime):
        try:
            packages.append(opened(file.read_bytes()).described())
        except HansaError as error:
            packages.append({"id": file.stem, "refused": str(error)})
    waiting = Approvals(folder).open_requests()
    left = departures(folder / LEDGER)
    keys, receipts = _keys_of(folder), folder / RECEIPTS
    if as_json:
        enforced = {"enforced": walls.enforced, "not_enforced": walls.missing, "by": walls.tool, "why": walls.why_not}
        print_json(
            {"confinement": enforced, "packages": packages, "waiting": waiting, "left": left, **keys}
            | {"receipts": receipts if receipts.exists() else None}
        )
        return
    _tell_keys(keys)
    missing = " ".join(walls.missing) or "nothing"
    say(f"confined   {' '.join(walls.enforced)}; not: {missing} ({walls.why_not or walls.tool})")
    for package in packages:
        say("")
        if "refused" in package:
            say(f"package    {package['id']}: {package['refused']}")
        else:
            print_package(package, as_json=False)
    for request in waiting:
        what = f"{counted(request.rounds, 'round')} of {request.algorithm}"
        say(f"\nwaits      session {request.session} ({request.name}): {what}")
        say(f"           package {request.package or 'none'}; hansa client approve {request.session}")
    say(f"\nleft       {len(left)} times, {size(sum(each.bytes for each in left))} in all")
    for each in left[-_SHOWN:]:
        named = f"  {', '.join(each.metrics)}" if each.metrics else ""
        say(f"{each.at}  {each.session}  round {each.round:<4}  {each.kind:<10}  {size(each.bytes):>7}{named}")
    if receipts.exists():
        say(f"receipts   {receipts}: what the server has signed of rounds that count this site's updates")


def policy_of(site: Path | None) -> "SitePolicy":
    """What the owner allows; without a file, anything."""
    from hansa.network.client.policy import ANYTHING, read_policy

    return ANYTHING if site is None else read_policy(site)


def confinement(
    work: Path, info: "ClientInfo", policy: "SitePolicy", secrets: tuple[Path | None, ...]
) -> "Confinement":
    """How code that sessions bring is kept away from the rest of this machine. secrets: files that it must not see.

    Raises `ConfigError` where it is required and cannot be enforced.
    """
    from hansa.network.client.confinement import Confinement, confine
    from hansa.settings import Settings

    settings = Settings()
    own = (work, settings.credentials.expanduser(), settings.package_key.expanduser(), *secrets)
    given = [Path(value).expanduser() for value in info.settings.values() if value]
    here = () if policy.code.readable is not None else (Path.cwd(),)
    rules = Confinement(
        network=policy.code.network,
        hidden=tuple(path.resolve() for path in own if path is not None),
        readable=policy.code.readable,
        shown=(*here, *(path.resolve() for path in given if path.exists())),
        variables=policy.code.environment,
        limits=policy.limits,
    )
    return confine(policy.code.confinement or settings.confinement, rules)


def tell(walls: "Confinement") -> None:
    """Say in the log what is enforced here, and what is not."""
    import structlog

    log = structlog.get_logger(__name__)
    (log.warning if walls.missing else log.info)(
        "code that sessions bring",
        enforced=" ".join(walls.enforced),
        not_enforced=" ".join(walls.missing) or "nothing",
        by=walls.tool.value or "nobody",
        **({"why": walls.why_not} if walls.why_not else {}),
    )


def _keys_of(folder: Path) -> dict[str, Any]:
    """Public keys: `key`, that which it has, `next_key`, that which it changes to, and `former_keys`; empty: none."""
    from hansa.network.node_keys import NodeKeys

    keys = NodeKeys(folder)
    key, following = keys.current(), keys.next()
    return {
        "key": key.public if key is not None else "",
        "next_key": following.public if following is not None else "",
        "former_keys": [each.former for each in keys.former()],
    }


def _tell_keys(keys: dict[str, Any]) -> None:
    say(f"signs      as {keys['key'] or 'nobody yet: it has not joined'}")
    for key in keys["former_keys"]:
        say(f"           before as {key}")
    if keys["next_key"]:
        say(f"           soon as {keys['next_key']}")
