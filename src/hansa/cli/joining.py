"""What clients and combiners have in common when they join a network: its address, a token, a folder, labels."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hansa.cli.options import CertificateAuthority, Json, expand, pairs
from hansa.cli.output import print_json, say

if TYPE_CHECKING:
    from hansa.wire.tls import Trust
    from hansa.wire.tokens import Identity

__all__ = ["JoinOptions", "Work", "rotate_key", "work_folder"]

_STATE = Path("~/.local/state/hansa/nodes")
"""Where nodes without a folder have one: by join token, so that the same command finds it again."""

Work = Annotated[
    Path | None, typer.Option("--work", "-w", help="The node's folder; by default HANSA_WORK.", show_default=False)
]


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """How a node finds its network, and who it is there."""

    join: Annotated[
        str,
        typer.Option(
            "--join",
            "-j",
            metavar="HOST:PORT",
            help="gRPC address of the controller, as `hansa up` prints it; with tcp:// before it, without TLS.",
        ),
    ]
    ca: CertificateAuthority = None
    token: Annotated[
        str | None,
        typer.Option(
            "--token", show_default=False,
            help="The token with which this node joins, once; others on the machine can read a command line, so rather "
            "set HANSA_TOKEN.",
        ),
    ] = None  # fmt: skip
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File that holds the join token.", exists=True, dir_okay=False)
    ] = None
    name: Annotated[
        str | None, typer.Option("--name", help="This node's name, by default the token's; another name is refused.")
    ] = None
    label: Annotated[
        list[str],
        typer.Option(
            "--label",
            "-l",
            metavar="KEY=VALUE",
            help="A label by which sessions choose clients, and balancers servers; may be repeated.",
        ),
    ] = field(default_factory=list)
    work: Annotated[
        Path | None,
        typer.Option(
            "--work",
            "-w",
            help="Folder for this node's key, models and updates; by default HANSA_WORK, else one of the join token in "
            "~/.local/state/hansa.",
        ),
    ] = None

    def address(self) -> str:
        """The controller's address; raises `InputError` for what is no host:port."""
        from hansa.errors import InputError

        host, colon, port = self.join.removeprefix("tcp://").removeprefix("tls://").rpartition(":")
        if "//" in host or not colon or not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise InputError(
                f"--join {self.join} is no host:port; give the gRPC address that `hansa up` printed, for example "
                "10.0.0.5:8471"
            )
        return self.join

    def trust(self) -> "Trust":
        """How the controller is known; raises `InputError` for an authority that is none."""
        from hansa.settings import Settings
        from hansa.wire.tls import read_pair, trust_in

        settings = Settings()
        return trust_in(settings.ca if self.ca is None else self.ca, read_pair(settings.tls_cert, settings.tls_key))

    def secret(self) -> str:
        """The token, from wherever it was given; raises `AuthenticationError` when there is none."""
        from hansa.errors import AuthenticationError, InputError
        from hansa.settings import Settings

        if self.token:
            return self.token.strip()
        if self.token_file is not None:
            try:
                return self.token_file.read_text(encoding="ascii").strip()
            except (OSError, ValueError) as error:
                raise InputError(f"the token file {self.token_file} cannot be read: {error}") from error
        token = Settings().token
        if token is None:
            raise AuthenticationError(
                "this node has no token: set HANSA_TOKEN or give --token-file; the operator makes one with "
                "`hansa token create NAME --role client` (or --role combiner)"
            )
        return token.get_secret_value().strip()

    def identity(self, wanted: str) -> "Identity":
        """Who the token says that this node is; wanted: its role. Raises where name or role differ."""
        from hansa.errors import InputError, PermissionDeniedError
        from hansa.wire.tokens import holder

        identity = holder(self.secret())
        if identity.role.value != wanted:
            raise PermissionDeniedError(
                f"the token of {identity.name} is for the role {identity.role.value}; a {wanted} needs one of its own: "
                f"`hansa token create NAME --role {wanted}`"
            )
        if self.name not in {None, identity.name}:
            raise InputError(f"--name {self.name}, but the token was issued to {identity.name}; leave out one of them")
        return identity

    @property
    def labels(self) -> dict[str, str]:
        """The labels: of HANSA_LABELS, and in the place of those of the same key, of the command line."""
        from hansa.settings import Settings

        given = [text.strip() for text in Settings().labels.split(",") if text.strip()]
        return {**pairs(given, "HANSA_LABELS"), **pairs(self.label, "--label")}

    @property
    def key_age(self) -> float:
        """Seconds after which this node changes its key."""
        from hansa.settings import Settings

        return Settings().key_days * 86_400 or math.inf

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """The work folder, for this process alone. Raises `ConflictError` while another process has it."""
        from hansa.settings import Settings
        from hansa.store.disk import alone_in, explained
        from hansa.wire.tokens import holder

        chosen = self.work or Settings().work
        if chosen is None:
            identity = holder(self.secret())
            chosen = _STATE / f"{identity.project}-{identity.name}-{identity.token_id[:12]}"
        folder = chosen.expanduser().resolve()
        with explained("keep this node's files in", folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        busy = (
            f"another process on this machine is this node: {folder} is in use; stop that one, or give this one a "
            "join token and a folder of its own"
        )
        with alone_in(folder, busy):
            yield folder


def work_folder(work: Path | None) -> Path:
    """The folder of a node on this machine. Raises `InputError` where none is given, or it is not there."""
    from hansa.errors import InputError
    from hansa.settings import Settings

    chosen = work or Settings().work
    if chosen is None or not chosen.expanduser().is_dir():
        raise InputError("give the node's folder: --work, or HANSA_WORK, as it was started with")
    return chosen.expanduser().resolve()


@expand
def rotate_key(*, work: Work = None, as_json: Json = False) -> None:
    """Have this node change its key: it makes a new one, and hands over to it with a signature of both.

    A node that runs does so within some seconds, another one when it starts. No join token is needed; updates that the
    former key has signed count still, and `hansa verify` goes from one key to the other.
    """
    from hansa.network.node_keys import NodeKeys

    keys = NodeKeys(work_folder(work))
    following, current = keys.make_next(), keys.current()
    former = current.public if current is not None else ""
    if as_json:
        print_json({"key": former, "next": following.public})
    else:
        say(f"{former} hands over to")
        say(f"{following.public}, within some seconds if the node runs, else when it starts")
