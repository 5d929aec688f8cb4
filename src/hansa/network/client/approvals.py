"""Sessions that wait for a person, and what that person said: small files in the client's folder.

What is approved is a session as it was asked for: with another package or another run it is asked for again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from hansa.errors import NotFoundError
from hansa.messages import RunSpec
from hansa.store.disk import explained, make_directory
from hansa.store.documents import spec_to_json

__all__ = ["Approvals", "Request"]

_FOLDER: Final = "approvals"


@dataclass(frozen=True, slots=True)
class Request:
    """A session that wants to run here."""

    session: str
    name: str
    project: str
    algorithm: str
    rounds: int
    package: str
    """The package's digest; empty where the owner's own app would run."""
    signer: str
    """Who has signed the package; empty for nobody, or where nobody could verify it."""
    covers: str
    """BLAKE3 of the whole run and the package."""

    @classmethod
    def of(cls, session: str, spec: RunSpec, package: str, signer: str) -> "Request":
        """What is asked of the owner."""
        run = json.dumps(spec_to_json(spec), sort_keys=True)
        covers = blake3(f"{session}\n{package}\n{run}".encode()).hexdigest()
        return cls(session, spec.name, spec.project, spec.algorithm, spec.rounds, package, signer, covers)


class Approvals:
    """The requests and answers of one client."""

    def __init__(self, work: Path) -> None:
        """work: the client's folder."""
        self._folder = work / _FOLDER

    def ask(self, request: Request) -> None:
        """Have the request where a person finds it."""
        self._write(request.session, "asked", asdict(request))

    def answer(self, request: Request) -> bool | None:
        """What a person said to this very request; None: nothing yet."""
        found = self._read(request.session, "said")
        if found is None or found.get("covers") != request.covers:
            return None
        return found.get("approved") is True

    def open_requests(self) -> list[Request]:
        """Those that nobody has answered."""
        asked = [json.loads(file.read_text()) for file in sorted(self._folder.glob("*.asked"))]
        return [request for request in (Request(**each) for each in asked) if self.answer(request) is None]

    def say(self, session: str, *, approved: bool) -> Request:
        """A person's answer to a session's request; it may be a beginning of its id. Raises `NotFoundError`."""
        every = [Request(**json.loads(file.read_text())) for file in sorted(self._folder.glob("*.asked"))]
        found = [request for request in every if request.session.startswith(session)]
        if len(found) != 1:
            known = ", ".join(request.session for request in every) or "none"
            raise NotFoundError(
                f"{len(found)} sessions that asked here begin with {session!r}; those that asked: {known}"
            )
        self._write(found[0].session, "said", {"covers": found[0].covers, "approved": approved})
        return found[0]

    def _write(self, session: str, kind: str, document: Mapping[str, object]) -> None:
        file = self._file(session, kind)
        with explained("keep an approval in", self._folder):
            make_directory(self._folder)
            unfinished = file.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(document))
            unfinished.replace(file)

    def _read(self, session: str, kind: str) -> Mapping[str, object] | None:
        file = self._file(session, kind)
        if not file.exists():
            return None
        document: Mapping[str, object] = json.loads(file.read_text())
        return document

    def _file(self, session: str, kind: str) -> Path:
        """A server may name a session as it likes; it names no path."""
        return self._folder / f"{hashlib.sha256(session.encode()).hexdigest()[:32]}.{kind}"
