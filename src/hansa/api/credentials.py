"""The operator's saved token: a small file that its owner alone can read."""

import json
import os
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from hansa.errors import InputError
from hansa.wire.tls import Trust

__all__ = ["Credentials", "forget_credentials", "load_credentials", "save_credentials"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where a server is, and who one is there."""

    url: str
    token: str
    project: str
    roots: str = ""
    """Certificate (PEM) of the authority that the server's is of; empty: one that the world believes."""
    name: str = ""
    """The server's name in its certificate; empty: the URL's host."""

    @property
    def trust(self) -> Trust:
        """How the server is known."""
        return Trust(roots=self.roots, name=self.name)

    def __repr__(self) -> str:
        """Without the token: it must not reach a log."""
        return f"Credentials(url={self.url!r}, project={self.project!r})"


def save_credentials(path: Path, credentials: Credentials) -> Path:
    """Write them, readable by the owner alone, in place of those that were there; returns the file."""
    target = path.expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")  # mode 0600
    with ExitStack() as undo:
        undo.callback(Path(name).unlink, missing_ok=True)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(credentials), file)
        Path(name).replace(target)
        undo.pop_all()
    return target


def forget_credentials(path: Path) -> None:
    """Remove what was saved; harmless when nothing was."""
    path.expanduser().unlink(missing_ok=True)


def load_credentials(path: Path) -> Credentials | None:
    """What was saved; None when nothing was. Raises `InputError` for a file that cannot be read as such."""
    target = path.expanduser()
    try:
        document = json.loads(target.read_text(encoding="utf-8"))
        given = {name: str(document[name]) for name in ("url", "token", "project")}
        return Credentials(**given, roots=str(document.get("roots", "")), name=str(document.get("name", "")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"the saved credentials in {target} cannot be read ({error!r}): delete the file") from error
