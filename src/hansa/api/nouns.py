"""What a client can name: models, packages, rounds, metrics, events, nodes, tokens, people and projects."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from blake3 import blake3

from hansa.api.documents import from_document
from hansa.api.results import IssuedToken, Listing, ProjectQuota, User
from hansa.api.transport import Message, Transport
from hansa.arrays import Arrays
from hansa.errors import ConnectionFailedError, CorruptionError, InputError, NotFoundError
from hansa.network.controller.journal import Live
from hansa.network.files import mapped
from hansa.packages.package import SUFFIX, build
from hansa.packages.signature import read_key
from hansa.store.disk import whole_file
from hansa.store.records import (
    AuditRecord,
    ClientRecord,
    CombinerRecord,
    ContributionRecord,
    EventRecord,
    MemberRecord,
    MetricRecord,
    ModelRecord,
    NodeRecord,
    PackageRecord,
    ProjectRecord,
    ProjectRole,
    RoundRecord,
    SampleRecord,
    TokenRecord,
)
from hansa.wire import codec
from hansa.wire.frames import Role

__all__ = [
    "Audit",
    "Clients",
    "Combiners",
    "Events",
    "Listed",
    "Members",
    "Metrics",
    "Models",
    "Nodes",
    "Noun",
    "Packages",
    "Projects",
    "Rounds",
    "Samples",
    "Tokens",
    "Users",
]

R = TypeVar("R")
Filter = str | int | bool | list[str] | None
"""A column's value, or several of them."""

_PAGE: Final = 1000
_RETRIES: Final = 18
"""Attempts to take up a stream: a server that is started again, or another that takes over, has about a minute."""
_HAPPENED: Final = frozenset({"message", "live"})
"""Server-sent events that tell of something; others say that the stream is alive."""
_PATIENCE: Final = 5.0
"""Seconds between two attempts at most."""
_DIGEST: Final = 64
"""Characters of a whole digest."""


class Noun:
    """Things of one project, on one server."""

    def __init__(self, transport: Transport, project_path: str) -> None:
        """project_path: the path of the project, below /api/v1."""
        self._transport = transport
        self._path = project_path


class Listed(Noun, Generic[R]):
    """A noun that is listed, and found by id or the beginning of one."""

    _kind: type[R]
    _name: str

    def list(self, *, limit: int = 100, offset: int = 0, sort: str | None = None, **where: Filter) -> Listing[R]:
        """A page. sort: a column, with a leading "-" for descending; where: columns and what they must be."""
        return self._page(f"/{self._name}", limit=limit, offset=offset, sort=sort, **where)

    def all(self, **where: Filter) -> Iterator[R]:
        """Every one that matches, page by page, oldest first."""
        offset = 0
        while True:
            page = self._page(f"/{self._name}", limit=_PAGE, offset=offset, **where)
            yield from page
            offset += len(page)
            if not page.items or offset >= page.total:
                return

    def _page(self, path: str, **query: Filter) -> Listing[R]:
        return listing(self._kind, self._transport.json("GET", self._path + path, query=query))

    def _get(self, path: str) -> R:
        return from_document(self._kind, self._transport.json("GET", self._path + path))


def listing(kind: type[R], document: Mapping[str, Any]) -> Listing[R]:
    """A page of records."""
    items = tuple(from_document(kind, item) for item in document.get("items", ()))
    return Listing(items, int(document.get("total", len(items))), int(document.get("cursor", 0)))


class Models(Listed[ModelRecord]):
    """The model trail. A model is named by its digest, or by a beginning of it that no other model has."""

    _kind = ModelRecord
    _name = "models"

    def get(self, model: str) -> ModelRecord:
        """A model."""
        return self._get(f"/models/{self.digest(model)}")

    def ancestors(self, model: str) -> Listing[ModelRecord]:
        """What the model was made from, nearest first, back to its seed."""
        return self._page(f"/models/{self.digest(model)}/ancestors")

    def descendants(self, model: str) -> Listing[ModelRecord]:
        """What was made from the model, oldest first."""
        return self._page(f"/models/{self.digest(model)}/descendants")

    def upload(
        self, model: Arrays | Mapping[str, Any] | bytes | str | Path, name: str = "", parent: str | None = None
    ) -> ModelRecord:
        """A seed model: arrays, the bytes of a safetensors file, or the path of one.

        parent: digest of the model that it was made from elsewhere, which must be there.
        """
        parts: Sequence[bytes | memoryview]
        if isinstance(model, bytes):
            parts = [model]
        elif isinstance(model, str | Path):
            parts = [_read(Path(model))]
        else:
            parts = codec.encode(model if isinstance(model, Arrays) else Arrays(model))
        query = {"name": name or None, "parent": parent}
        return from_document(ModelRecord, self._transport.upload(f"{self._path}/models", parts, query))

    def download(self, model: str, path: str | Path | None = None) -> Path:
        """The safetensors file of a model, checked against its digest; path: by default DIGEST.safetensors here.

        Nothing is left at the path unless the file is whole. Raises `CorruptionError` when it is not what it should be.
        """
        digest = self.digest(model)
        target = Path(path) if path is not None else Path(f"{digest[:12]}.safetensors")
        with whole_file(target) as file:
            self._transport.download(f"{self._path}/models/{digest}/file", file)
            file.flush()
            if blake3(max_threads=blake3.AUTO).update_mmap(file.name).hexdigest() != digest:
                raise CorruptionError(f"what arrived is not model {digest[:12]}…: download it again")
        return target

    def delete(self, model: str) -> ModelRecord:
        """Delete an uploaded model; raises `ConflictError` when a session, a prediction or another model names it."""
        found = self.get(model)
        self._transport.json("DELETE", f"{self._path}/models/{found.id}")
        return found

    def load(self, model: str) -> Arrays:
        """The arrays of a model."""
        with tempfile.TemporaryDirectory(prefix="hansa-model-") as folder:
            return codec.decode(mapped(self.download(model, Path(folder) / "model")))

    def named(self, model: str | Path) -> str:
        """The digest of a model that is named by it, or by the path of a safetensors file, which is uploaded."""
        if isinstance(model, Path) or Path(model).is_file():
            return self.upload(model).id
        return self.digest(model)

    def digest(self, model: str) -> str:
        """The whole digest of a model that is named by the beginning of it."""
        return _whole(self, "model", model, self._path)


class Packages(Listed[PackageRecord]):
    """User code that sessions ship to clients. A package is named by its id, or by a beginning that no other has."""

    _kind = PackageRecord
    _name = "packages"

    def __init__(self, transport: Transport, project_path: str, *, key: Path | None = None) -> None:
        """key: where there is such a file, it signs the apps that are packed here."""
        super().__init__(transport, project_path)
        self._key = key

    def get(self, package: str) -> PackageRecord:
        """A package."""
        return self._get(f"/packages/{_whole(self, 'package', package, self._path)}")

    def delete(self, package: str) -> PackageRecord:
        """Delete a package; raises `ConflictError` when a session or a prediction names it."""
        found = self.get(package)
        self._transport.json("DELETE", f"{self._path}/packages/{found.id}")
        return found

    def upload(self, app: str | Path, name: str | None = None) -> PackageRecord:
        """An app's file or folder, packed and signed; or a package's file as it is. name: by default the app's."""
        given = Path(app)
        if given.suffix == SUFFIX and given.is_file():
            if name is not None:
                raise InputError(f"{given} has its name already: build it with another, or leave it out")
            content = given.read_bytes()
        else:
            key = self._key if self._key is not None and self._key.exists() else None
            content = build(given, name=name, key=read_key(key) if key is not None else None)
        return from_document(PackageRecord, self._transport.upload(f"{self._path}/packages", [content], {}))


class Rounds(Listed[RoundRecord]):
    """Committed rounds of sessions."""

    _kind = RoundRecord
    _name = "rounds"

    def get(self, session: str, number: int) -> RoundRecord:
        """One round of a session. session: its id."""
        return self._get(f"/sessions/{session}/rounds/{number}")

    def contributions(
        self, session: str, number: int | None = None, *, limit: int = _PAGE, offset: int = 0, **where: Filter
    ) -> Listing[ContributionRecord]:
        """What became of every invited client, in one round or in all. session: its id."""
        query: dict[str, Filter] = {"session": session, "round": number, "limit": limit, "offset": offset, **where}
        path = f"{self._path}/contributions"
        return listing(ContributionRecord, self._transport.json("GET", path, query=query))


class Metrics(Listed[MetricRecord]):
    """Numbers of rounds: of a client, merged over clients (`client=""`), or central (`client="central"`)."""

    _kind = MetricRecord
    _name = "metrics"

    def validations(self, *, limit: int = _PAGE, offset: int = 0, **where: Filter) -> Listing[MetricRecord]:
        """Evaluation metrics alone."""
        return self._page("/validations", limit=limit, offset=offset, **where)


class Samples(Listed[SampleRecord]):
    """Numbers on the way: what user code has logged in its tasks (`task.log`)."""

    _kind = SampleRecord
    _name = "samples"


class Events(Listed[EventRecord]):
    """What happened, in order; and what happens now."""

    _kind = EventRecord
    _name = "events"

    def stream(
        self, after: int | None = None, session: str | None = None, tell: Callable[[str], None] = lambda _: None
    ) -> Iterator[EventRecord | Live]:
        """Stored events after a cursor and then what happens, for ever; a broken connection is taken up by itself.

        after: the id of an event, 0 for all there are; None: only what is new. session: only this session's (its id),
        and the network's own. tell: called with why the connection is lost, and with an empty string when it is back.
        Raises `ConnectionFailedError` when the server does not come back.
        """
        last = after if after is not None else self.list(limit=1).cursor
        failures = 0
        while True:
            try:
                query = {"session": session, "after": last}
                for message in self._transport.stream(f"{self._path}/events/stream", query, last):
                    if failures:
                        tell("")
                    failures = 0
                    last = message.id if message.id is not None else last
                    if message.event in _HAPPENED:
                        yield self._happened(message)
            except ConnectionFailedError as error:
                if not failures:
                    tell(str(error))
                failures += 1
                if failures > _RETRIES:
                    raise
            time.sleep(min(0.1 * 2**failures, _PATIENCE))

    def _happened(self, message: Message) -> EventRecord | Live:
        return from_document(Live, message.data) if message.id is None else from_document(EventRecord, message.data)


class Clients(Listed[ClientRecord]):
    """Data owners' clients, connected or not."""

    _kind = ClientRecord
    _name = "clients"

    def get(self, name: str) -> ClientRecord:
        """A client, by its name."""
        return self._get(f"/clients/{name}")

    def telemetry(
        self, client: str | None = None, name: str | None = None, *, limit: int = _PAGE
    ) -> Listing[SampleRecord]:
        """What clients' machines have told of themselves, the newest first.

        client: of one; None: of all. name: of the number, for example cpu (a share from 0 to 1) or disk_free (bytes).
        """
        query = {"client": client, "name": name, "limit": limit, "sort": "-at"}
        return listing(SampleRecord, self._transport.json("GET", f"{self._path}/telemetry", query=query))

    def label(self, name: str, labels: Mapping[str, str | None]) -> ClientRecord:
        """Give a client labels beside its own, by which sessions choose; None takes one away that was given so."""
        path = f"{self._path}/clients/{name}/labels"
        return from_document(ClientRecord, self._transport.json("PATCH", path, body={"labels": dict(labels)}))


class Combiners(Listed[CombinerRecord]):
    """Aggregation servers, connected or not."""

    _kind = CombinerRecord
    _name = "combiners"

    def get(self, name: str) -> CombinerRecord:
        """A combiner, by its name."""
        return self._get(f"/combiners/{name}")


class Tokens(Listed[TokenRecord]):
    """Tokens that were issued; the tokens themselves are not kept."""

    _kind = TokenRecord
    _name = "tokens"

    def create(self, name: str, role: Role | ProjectRole | str, expires_in: float | None = None) -> IssuedToken:
        """A token for a client or a combiner; or, with a role of people, an API token that acts for the caller.

        expires_in: seconds; None: a node has 7 days to join, and an API token holds for 30.
        """
        body: dict[str, Any] = {"name": name, "role": str(role)}
        if expires_in is not None:
            body["expires_in"] = expires_in
        place = "tokens" if str(role) in {Role.CLIENT, Role.COMBINER} else "api-tokens"
        return from_document(IssuedToken, self._transport.json("POST", f"{self._path}/{place}", body=body))

    def revoke(self, token: str) -> TokenRecord:
        """Refuse a token of the project from now on. token: its id, not the token itself."""
        return from_document(TokenRecord, self._transport.json("DELETE", f"{self._path}/tokens/{token}"))

    def mine(self, *, limit: int = 100, offset: int = 0) -> Listing[TokenRecord]:
        """The caller's own API tokens for the project, oldest first."""
        return self._page("/api-tokens", limit=limit, offset=offset)

    def revoke_mine(self, token: str) -> TokenRecord:
        """Refuse one of the caller's own API tokens from now on."""
        return from_document(TokenRecord, self._transport.json("DELETE", f"{self._path}/api-tokens/{token}"))


class Nodes(Listed[NodeRecord]):
    """Clients and combiners that have joined, with the keys by which they are known."""

    _kind = NodeRecord
    _name = "nodes"

    def revoke(self, name: str) -> NodeRecord:
        """Refuse a node from now on: its streams end."""
        return from_document(NodeRecord, self._transport.json("DELETE", f"{self._path}/nodes/{name}"))


class Members(Listed[MemberRecord]):
    """Who is what in the project."""

    _kind = MemberRecord
    _name = "members"

    def add(self, user: str, role: ProjectRole | str) -> MemberRecord:
        """Make a user a member, or give a member another role."""
        path = f"{self._path}/members/{user}"
        return from_document(MemberRecord, self._transport.json("PUT", path, body={"role": str(role)}))

    def remove(self, user: str) -> MemberRecord:
        """From now on they know the project no more."""
        return from_document(MemberRecord, self._transport.json("DELETE", f"{self._path}/members/{user}"))


class Audit(Listed[AuditRecord]):
    """Who did what in the project."""

    _kind = AuditRecord
    _name = "audit"

    def lines(self, *, installation: bool = False) -> Iterator[AuditRecord]:
        """Every line, oldest first. installation: those that concern no project, for site administrators."""
        if not installation:
            yield from self.all()
            return
        offset, total = 0, 1
        while offset < total:
            query = {"limit": _PAGE, "offset": offset}
            page = listing(AuditRecord, self._transport.json("GET", "/audit", query=query))
            yield from page
            offset, total = offset + _PAGE, page.total


class Projects(Noun):
    """Workspaces: those that the caller knows, and new ones."""

    def list(self) -> Listing[ProjectRecord]:
        """The projects that the caller knows."""
        return listing(ProjectRecord, self._transport.json("GET", "/projects"))

    def get(self, name: str) -> ProjectRecord:
        """A project."""
        return from_document(ProjectRecord, self._transport.json("GET", f"/projects/{name}"))

    def quota(self, name: str) -> ProjectQuota:
        """What a project uses of its quotas."""
        return from_document(ProjectQuota, self._transport.json("GET", f"/projects/{name}/quota"))

    def set_quota(self, name: str, **quotas: int | None) -> ProjectQuota:
        """Set some of a project's quotas; for site administrators.

        quotas: of `sessions` at once, `storage` in bytes and `clients`; None: the server's default.
        """
        return from_document(ProjectQuota, self._transport.json("PUT", f"/projects/{name}/quota", body=quotas))

    def create(self, name: str) -> ProjectRecord:
        """A new project, without members."""
        return from_document(ProjectRecord, self._transport.json("POST", "/projects", body={"name": name}))


class Users(Noun):
    """Who may log in; for site administrators."""

    def list(self, *, limit: int = 100, offset: int = 0) -> Listing[User]:
        """The users of the installation, oldest first."""
        return listing(User, self._transport.json("GET", "/users", query={"limit": limit, "offset": offset}))

    def create(
        self, name: str, password: str | None = None, *, admin: bool = False, subject: str | None = None
    ) -> User:
        """Let a person in. password: None: they cannot log in with one until they are given one.

        subject: whom the OpenID provider of the server knows them as; None: they do not log in by it.
        """
        body = {"name": name, "admin": admin, "password": password, "subject": subject}
        return from_document(User, self._transport.json("POST", "/users", body=body))

    def link(self, name: str, subject: str) -> User:
        """Let a user log in by the OpenID provider of the server, as whom it means by the subject."""
        return from_document(User, self._transport.json("PUT", f"/users/{name}/subject", body={"subject": subject}))

    def unlink(self, name: str) -> User:
        """Let nobody log in as this user by an OpenID provider any more."""
        return from_document(User, self._transport.json("DELETE", f"/users/{name}/subject"))

    def set_password(self, name: str, password: str) -> User:
        """Give a user another password, and log them out."""
        return from_document(User, self._transport.json("PUT", f"/users/{name}/password", body={"password": password}))

    def disable(self, name: str) -> User:
        """Refuse a user and every token of theirs from now on."""
        return from_document(User, self._transport.json("POST", f"/users/{name}/disable"))

    def enable(self, name: str) -> User:
        """Let a disabled user log in again."""
        return from_document(User, self._transport.json("POST", f"/users/{name}/enable"))


def _read(path: Path) -> memoryview:
    """The file, mapped into memory."""
    try:
        return mapped(path)
    except OSError as error:
        raise InputError(f"the model file {path} cannot be read ({error.strerror}): check the path") from error


def _whole(among: Models | Packages, what: str, given: str, place: str) -> str:
    """The whole digest of what is named by the beginning of it."""
    if len(given) == _DIGEST:
        return given
    return only(
        {record.id for record in among.all() if record.id.startswith(given)} if given else set(), what, given, place
    )


def only(found: set[str], what: str, given: str, place: str) -> str:
    if len(found) == 1:
        return found.pop()
    project = place.rsplit("/", 1)[-1]
    if not found:
        raise NotFoundError(f"there is no {what} {given!r} in project {project!r}")
    shown = ", ".join(sorted(item[:16] for item in found)[:5])
    raise InputError(f"{given!r} could be {len(found)} {what}s of project {project!r} ({shown} …): give more of the id")
