"""Sessions as the Python client knows them: started from an app, watched, waited for."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from hansa.api.documents import from_document
from hansa.api.nouns import Events, Listed, Models, Packages, only
from hansa.api.results import Waiting
from hansa.api.transport import Transport
from hansa.app import App, load_app
from hansa.errors import InputError, NotFoundError
from hansa.evidence.findings import Verification
from hansa.messages import RunSpec
from hansa.network.controller.journal import Live
from hansa.run import check_networked, check_program, check_settings, resolve, suit
from hansa.store.disk import whole_file
from hansa.store.documents import spec_to_json
from hansa.store.records import EventRecord, SessionRecord, SessionState
from hansa.store.retention import Policy

if TYPE_CHECKING:
    from typing import Unpack

    from hansa.simulation.keywords import Settings as SpecFields

__all__ = ["Sessions"]

_TERMINAL: Final = frozenset({SessionState.FINISHED, SessionState.FAILED, SessionState.STOPPED})
_ENDS: Final = frozenset({*(f"session.{state}" for state in _TERMINAL), "session.crashed"})


class Sessions(Listed[SessionRecord]):
    """Runs on the network. A session is named by its id, a beginning of it that is unique, or its name."""

    _kind = SessionRecord
    _name = "sessions"

    def __init__(
        self, transport: Transport, project_path: str, *, models: Models, packages: Packages, events: Events
    ) -> None:
        """models, packages, events: of the same project."""
        super().__init__(transport, project_path)
        self._models = models
        self._packages = packages
        self._events = events

    def start(
        self,
        app: str | Path,
        spec: RunSpec | None = None,
        *,
        package: bool = True,
        seed_model: str | Path | None = None,
        keep: str | None = None,
        model_prefix: str | None = None,
        **settings: "Unpack[SpecFields]",
    ) -> SessionRecord:
        """Create a session of an app and start it.

        Args:
            app: the path of an app. Its initial model is drawn here, with the run's seed.
            spec: the run; or give its fields as keywords (`rounds=20, algorithm="fedprox"`), which replace those of it.
            package: whether the app travels to the clients; else they bring their own code.
            seed_model: a model to start from in place of the app's initial one: the digest of one of the project, or
                the path of a safetensors file, which is uploaded.
            keep: which rounds keep their models, for example "last 5, best accuracy max" or "all, aggregates"; None:
                the server's default.
            model_prefix: what its models are called, before "-" and their round's number.
            **settings: fields of `RunSpec`.

        """
        created = self.prepare(
            app, spec, package=package, seed_model=seed_model, keep=keep, model_prefix=model_prefix, **settings
        )
        return self._act(created.id, "start")

    def prepare(
        self,
        app: str | Path,
        spec: RunSpec | None = None,
        *,
        package: bool = True,
        seed_model: str | Path | None = None,
        keep: str | None = None,
        model_prefix: str | None = None,
        **settings: "Unpack[SpecFields]",
    ) -> SessionRecord:
        """What `start` does, without starting."""
        loaded = load_app(app)
        given = replace(spec or RunSpec(), **settings)  # type: ignore[arg-type]  # RunSpec reads transforms as text
        wanted = given if given.parties else suit(given, loaded)
        if keep is not None:
            Policy.parse(keep)
        if wanted.parties:
            return self._prepare_program(wanted, loaded, app if package else None, keep)
        if package:  # else clients bring code of their own, which may read others
            check_settings(loaded, wanted)
        run = resolve(wanted)
        check_networked(run)
        seed = self._models.named(seed_model) if seed_model else self._models.upload(run.initial_model(loaded)).id
        code = self._packages.upload(app).id if package else None
        return self.create(wanted, seed_model=seed, package=code, keep=keep, model_prefix=model_prefix)

    def _prepare_program(self, spec: RunSpec, loaded: App, app: str | Path | None, keep: str | None) -> SessionRecord:
        check_program(spec)
        if app is not None:
            loaded.function("program")
            check_settings(loaded, spec)
        return self.create(spec, package=self._packages.upload(app).id if app is not None else None, keep=keep)

    def create(
        self,
        spec: RunSpec,
        *,
        seed_model: str | None = None,
        package: str | None = None,
        keep: str | None = None,
        model_prefix: str | None = None,
    ) -> SessionRecord:
        """A session, not started. seed_model, package: digests of what was uploaded; the others: as of `start`.

        seed_model: None where the spec has parties.
        """
        document = {name: value for name, value in spec_to_json(spec).items() if name != "project"}
        body: dict[str, Any] = {"spec": document, "seed_model": seed_model, "package": package, "keep": keep}
        body |= {} if model_prefix is None else {"model_prefix": model_prefix}
        return from_document(SessionRecord, self._transport.json("POST", f"{self._path}/sessions", body=body))

    def get(self, session: str) -> SessionRecord:
        """A session."""
        return self._find(session)

    def stop(self, session: str) -> SessionRecord:
        """Stop a running session; what is committed stays."""
        return self._act(session, "stop")

    def resume(self, session: str, rounds: int = 0) -> SessionRecord:
        """Run a session that was created, or go on with one that has ended after its last committed round.

        rounds: how many further ones it shall commit than it was to; one that has finished needs some.
        """
        return self._act(session, "resume", {"rounds": rounds} if rounds else None)

    def delete(self, session: str) -> SessionRecord:
        """Delete a session that does not run, with its records and objects; returns what it was."""
        found = self._find(session)
        self._transport.json("DELETE", f"{self._path}/sessions/{found.id}")
        return found

    def keep(self, session: str, policy: str | None) -> SessionRecord:
        """Keep a session's models by another policy, from its next round on; None: by the server's default."""
        path = f"{self._path}/sessions/{self._find(session).id}/keep"
        return from_document(SessionRecord, self._transport.json("PUT", path, body={"keep": policy}))

    def why(self, session: str) -> Waiting:
        """What a session waits for."""
        path = f"{self._path}/sessions/{self._find(session).id}/why"
        return from_document(Waiting, self._transport.json("GET", path))

    def verify(self, session: str, head: str | None = None) -> Verification:
        """Have the server read every row and every object of a session.

        head: a link that its chain must contain, for example of the last round that was there before a backup was
        restored. Raises `CorruptionError` that names the first thing that is lost or changed.
        """
        path = f"{self._path}/sessions/{self._find(session).id}/verification"
        return from_document(Verification, self._transport.json("GET", path, query={"head": head}))

    def export(
        self, session: str, path: str | Path | None = None, models: Literal["all", "newest", "none"] = "all"
    ) -> Path:
        """The session's evidence as a file, which anybody can check (`hansa.evidence.bundle.verify_bundle`).

        path: by default NAME-ID.hansa.zip here; models: of which rounds the bytes go with it. Nothing is left at the
        path unless all of it has arrived.
        """
        found = self._find(session)
        target = Path(path) if path is not None else Path(f"{found.name}-{found.id}.hansa.zip")
        suffix = "" if models == "none" else f"/{models}"
        with whole_file(target) as file:
            self._transport.download(f"{self._path}/sessions/{found.id}/bundle{suffix}", file)
        return target

    def watch(
        self, session: str, after: int = 0, tell: Callable[[str], None] = lambda _: None
    ) -> Iterator[EventRecord | Live]:
        """The events of a session, stored and live, until it ends; it outlives a broken connection.

        after: the id of an event, to begin after it; tell: as of `events.stream`. A session that was resumed goes on
        after the end of its first run.
        """
        found = self._find(session)
        last: int | None = None
        if found.state in _TERMINAL:
            last = self._end_of(found)
            if last is None or last <= after:
                return
        for happened in self._events.stream(after, found.id, tell):
            yield happened
            if isinstance(happened, EventRecord) and happened.kind in _ENDS and self._is_over(happened, last):
                return

    def wait(self, session: str) -> SessionRecord:
        """Wait until a session has ended, and return it as it is then; its `cause` says why it ended."""
        found = self._find(session)
        for _ in self.watch(found.id):
            pass
        return self._find(found.id)

    def _act(self, session: str, verb: str, body: Any = None) -> SessionRecord:
        path = f"{self._path}/sessions/{self._find(session).id}/{verb}"
        return from_document(SessionRecord, self._transport.json("POST", path, body=body))

    def _find(self, session: str) -> SessionRecord:
        """By id; else by name, else by the beginning of an id."""
        if not session:
            raise InputError("name a session: its id, the beginning of one, or its name")
        for column in ("id", "name"):
            named = self._page("/sessions", **{column: session})
            if len(named) == 1:
                return named[0]
            if named:
                only({record.id for record in named}, "session", session, self._path)
        found = {record.id: record for record in self.all() if record.id.startswith(session)}
        return found[only(set(found), "session", session, self._path)]

    def _end_of(self, session: SessionRecord) -> int | None:
        """The event with which a session ended."""
        ends = self._events.list(session=session.id, kind=sorted(_ENDS), sort="-id", limit=1)
        return ends[0].id if ends.items else None

    def _is_over(self, event: EventRecord, last: int | None) -> bool:
        """Whether this end is the session's last: after it may come a resumption, and other events."""
        if last is not None:
            return event.id >= last
        try:
            now = self._get(f"/sessions/{event.session}")
        except NotFoundError:
            return True
        if event.kind == "session.crashed":
            return now.started_at is None or now.started_at <= event.at
        return now.ended_at is not None and now.ended_at <= event.at
