"""Sessions and what they leave behind: rounds, contributions, metrics."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Response
from fastapi import Query as Parameter
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from hansa.api.apps import Apps
from hansa.api.curves import Charts
from hansa.api.documents import record_document
from hansa.api.guard import Limits, Routes, caller
from hansa.api.permissions import Permission
from hansa.api.requests import Keep, NewSession, Resume, spec_of
from hansa.api.results import Waiting
from hansa.api.routes.lists import Cursors, add_list
from hansa.api.shapes.curves import CurvesShape, SpreadShape
from hansa.api.shapes.sessions import (
    ContributionShape,
    MetricShape,
    RoundShape,
    SampleShape,
    SessionShape,
    VerificationShape,
)
from hansa.api.shapes.waiting import WaitingShape
from hansa.errors import NotFoundError
from hansa.evidence.stored import verify_session
from hansa.network.controller.controller import Controller
from hansa.network.controller.export import Models
from hansa.rounds.why import Why
from hansa.store.ports import Query
from hansa.store.records import ContributionRecord, MetricRecord, RoundRecord, SampleRecord, SessionRecord, SessionState
from hansa.wire.tokens import Identity

__all__ = ["UNFINISHED", "SessionRoutes"]

UNFINISHED: Final = "hansa-bundle-"
"""How folders begin in which bundles are made: a server that was killed leaves them."""
_LARGEST = 2**63 - 1
_BUNDLE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The bundle, a zip archive",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {"description": "The range that was asked for"},
}
Caller = Annotated[Identity, Depends(caller)]
After = Annotated[int, Parameter(ge=0, le=_LARGEST, description="Only rounds after this one.")]


class SessionRoutes:
    """Create, run, watch and delete sessions."""

    def __init__(self, controller: Controller, cursors: Cursors, limits: Limits, apps: Apps) -> None:
        """controller: drives the sessions; limits: where files are put for a moment; apps: simulates some of them."""
        self._apps = apps
        self._limits = limits
        self._controller = controller
        self._cursors = cursors
        self._charts = Charts(controller.store)

    def add(self, routes: Routes) -> None:
        """Add the routes."""
        one = "/sessions/{session}"
        add = routes.add
        for path, kind, shape, fixed, about in (
            ("/sessions", SessionRecord, SessionShape, {}, "The project's sessions."),
            ("/rounds", RoundRecord, RoundShape, {}, "Committed rounds of the project's sessions."),
            ("/contributions", ContributionRecord, ContributionShape, {}, "What became of every invited client."),
            ("/samples", SampleRecord, SampleShape, {}, "Numbers on the way: what user code has logged in its tasks."),
            ("/metrics", MetricRecord, MetricShape, {}, "Numbers of rounds: of clients, merged over them, central."),
            (
                "/validations",
                MetricRecord,
                MetricShape,
                {"kind": "evaluate"},
                "Evaluation metrics, by round and client.",
            ),
        ):
            add_list(
                routes,
                path,
                kind,
                shape,
                about,
                needs=Permission.READ,
                store=self._controller.store,
                cursors=self._cursors,
                fixed=fixed,
            )
        add(
            Permission.RUN,
            "/sessions",
            self.create_session,
            methods=["POST"],
            status_code=201,
            response_model=SessionShape,
        )
        add(Permission.READ, one, self.get_session, response_model=SessionShape)
        add(Permission.DELETE, one, self.delete_session, methods=["DELETE"], status_code=204, response_class=Response)
        add(Permission.RUN, f"{one}/start", self.start_session, methods=["POST"], response_model=SessionShape)
        add(Permission.RUN, f"{one}/resume", self.resume_session, methods=["POST"], response_model=SessionShape)
        add(Permission.RUN, f"{one}/stop", self.stop_session, methods=["POST"], response_model=SessionShape)
        add(Permission.RUN, f"{one}/keep", self.keep_session, methods=["PUT"], response_model=SessionShape)
        add(Permission.READ, f"{one}/why", self.why_session_waits, response_model=WaitingShape)
        add(Permission.VERIFY, f"{one}/verification", self.verify_session, response_model=VerificationShape)
        add(Permission.VERIFY, f"{one}/bundle", self.export_record, responses=_BUNDLE, response_class=Response)
        add(
            Permission.DOWNLOAD,
            f"{one}/bundle/{{models}}",
            self.export_with_models,
            responses=_BUNDLE,
            response_class=Response,
        )
        add(Permission.READ, f"{one}/rounds/{{number}}", self.get_round, response_model=RoundShape)
        add(Permission.READ, f"{one}/curves", self.get_curves, response_model=CurvesShape)
        add(Permission.READ, f"{one}/spread", self.get_spread, response_model=SpreadShape)

    async def create_session(self, project: str, me: Caller, body: NewSession) -> dict[str, Any]:
        """Create a session, not started. Its seed model, and its package where it has one, must be uploaded before."""
        created = await self._controller.sessions.create(
            project,
            spec_of(body.spec, project),
            seed_model=body.seed_model,
            package=body.package,
            keep=body.keep,
            model_prefix=body.model_prefix,
            by=me.name,
        )
        return record_document(created)

    async def get_session(self, project: str, session: str) -> dict[str, Any]:
        """A session."""
        return record_document(await self._controller.store.get(SessionRecord, project, session))

    async def delete_session(self, project: str, session: str, me: Caller) -> Response:
        """Delete a session that does not run, with its records, and the objects that nothing else needs."""
        await self._controller.sessions.delete(project, session, me.name)
        return Response(status_code=204)

    async def start_session(self, project: str, session: str, me: Caller) -> dict[str, Any]:
        """Run a session that was created, failed or was stopped."""
        return record_document(await self._controller.sessions.start(project, session, me.name))

    async def resume_session(
        self, project: str, session: str, me: Caller, body: Resume | None = None
    ) -> dict[str, Any]:
        """Go on after the last committed round; with `rounds`, that many further than it was to commit."""
        further = body.rounds if body is not None else 0
        return record_document(await self._controller.sessions.start(project, session, me.name, further=further))

    async def stop_session(self, project: str, session: str, me: Caller) -> dict[str, Any]:
        """Stop a running session; what is committed stays, and it can be resumed, unless it is simulated here."""
        if self._apps.simulates(project, session):
            await self._apps.stop(session, me.name)
            return await self.get_session(project, session)
        return record_document(await self._controller.sessions.stop(project, session, me.name))

    async def keep_session(self, project: str, session: str, me: Caller, body: Keep) -> dict[str, Any]:
        """Keep a session's models by another policy: from its next round on, or when it is pruned next."""
        return record_document(await self._controller.sessions.keep(project, session, body.keep, me.name))

    async def why_session_waits(self, project: str, session: str) -> dict[str, Any]:
        """What a session waits for: who is late, and when their leases end."""
        phase, away = await self._controller.sessions.why(project, session)
        found = await self._controller.store.get(SessionRecord, project, session)
        calls = self._controller.tree(project).calls(session)
        said = f"session {found.name} calls the app's {calls}" if calls and not away else _sentence(found, phase, away)
        return record_document(Waiting(found.id, found.state, said, phase))

    async def verify_session(
        self,
        project: str,
        session: str,
        head: Annotated[str | None, Parameter(description="A link that the session's chain must contain.")] = None,
    ) -> dict[str, Any]:
        """Read every row and object of a session, and compute its models anew, where it keeps what that takes.

        A 500 `corruption` names the first that is lost or changed, or does not follow from what is recorded.
        """
        controller = self._controller
        return record_document(await verify_session(controller.store, controller.objects, project, session, head))

    async def export_record(self, project: str, session: str, me: Caller) -> Response:
        """All that is recorded of a session, signed, as a zip archive: for third parties to verify."""
        return self._exported(project, session, Models.NONE, me)

    async def export_with_models(
        self, project: str, session: str, models: Literal["all", "newest"], me: Caller
    ) -> Response:
        """The same with bytes: of all models, states and aggregates that are kept, or of the newest model and state."""
        return self._exported(project, session, Models(models), me)

    def _exported(self, project: str, session: str, models: Models, me: Identity) -> Response:
        export = partial(self._controller.sessions.export, project, session, models, by=me.name)
        return _Exported(export, f"{session}.hansa.zip", self._limits.spool)

    async def get_round(self, project: str, session: str, number: int) -> dict[str, Any]:
        """A committed round of a session."""
        store = self._controller.store
        await store.get(SessionRecord, project, session)
        if not 0 <= number <= _LARGEST:
            raise NotFoundError(f"session {session} has no round {number}")
        page = await store.list(RoundRecord, Query(project, {"session": session, "number": number}, limit=1))
        if not page.items:
            raise NotFoundError(f"session {session} has no round {number} (yet)")
        return record_document(page.items[0])

    async def get_curves(self, project: str, session: str, after: After = 0) -> dict[str, Any]:
        """Every metric round by round, merged over clients and central, and the rounds, as columns for a chart."""
        cursor = await self._cursors.newest(project)
        return record_document(await self._charts.curves(project, session, after)) | {"cursor": cursor}

    async def get_spread(self, project: str, session: str, after: After = 0) -> dict[str, Any]:
        """How far apart the clients of each round are: for every metric the 10th, 50th and 90th percentile."""
        return record_document(await self._charts.spread(project, session, after))


class _Exported(FileResponse):
    """A bundle, made when it is sent, in a file of its own that is gone afterwards."""

    def __init__(self, export: Callable[[Path], Awaitable[None]], name: str, spool: Path | None) -> None:
        """export: writes the bundle to a file; name: how the caller's file is called; spool: a folder for ours."""
        super().__init__("", media_type="application/zip", filename=name)
        self._export = export
        self._spool = spool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix=UNFINISHED, dir=self._spool)
        try:
            self.path = Path(folder.name) / "bundle.zip"
            await self._export(Path(self.path))
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.to_thread(folder.cleanup)


def _sentence(session: SessionRecord, phase: Why | None, away: str) -> str:
    if away:
        return f"session {session.name} waits for storage: {away}"
    if phase is not None:
        return str(phase)
    match session.state:
        case SessionState.CREATED:
            return f"session {session.name} was created and waits to be started"
        case SessionState.RUNNING:
            return f"session {session.name} is between rounds; {session.round} are committed"
        case SessionState.FINISHED | SessionState.FAILED | SessionState.STOPPED:
            return f"session {session.name} waits for nothing: it is {session.state}, {session.cause}"
