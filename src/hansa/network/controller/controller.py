"""The control plane as one object: what the REST API, and nothing else, drives."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType

import structlog

from hansa.errors import AuthenticationError, ConfigError, HansaError, NotFoundError
from hansa.network.certificates import watch_end
from hansa.network.client.confinement import NO_CONFINEMENT, Confinement
from hansa.network.client.limits import Limits
from hansa.network.combiner.hub import Hub
from hansa.network.combiner.traffic import Traffic
from hansa.network.controller.artifacts import Artifacts
from hansa.network.controller.audit import SERVER, audit_line
from hansa.network.controller.beside import BesideServer
from hansa.network.controller.central import CentralEvaluation
from hansa.network.controller.conversation import Conversation
from hansa.network.controller.counts import Counts
from hansa.network.controller.functions import DEFAULT_LIMITS, DEFAULT_MEMORY, AppFunctions
from hansa.network.controller.journal import Journal
from hansa.network.controller.logins import Logins
from hansa.network.controller.names import checked_name
from hansa.network.controller.nodes import Nodes
from hansa.network.controller.people import People
from hansa.network.controller.predictions import Predictions
from hansa.network.controller.quotas import UNBOUNDED, Quota, Quotas
from hansa.network.controller.retention import Retention
from hansa.network.controller.samples import KEPT_FOR
from hansa.network.controller.sessions import Sessions
from hansa.network.controller.sign_on import SignOn
from hansa.network.controller.signing_keys import SigningKeys
from hansa.network.controller.traces import Place, Span, Traces
from hansa.network.controller.tree import ProjectTree
from hansa.network.controller.walls import Walls
from hansa.network.jobs import Jobs
from hansa.network.patience import patiently
from hansa.run import plugin
from hansa.store.paging import every
from hansa.store.ports import MetadataStore, ObjectStore, Query
from hansa.store.records import INSTALLATION, PredictionRecord, ProjectRecord, SessionRecord, SessionState, TokenRecord
from hansa.store.retention import KEEP_ALL, Policy
from hansa.wire import tokens
from hansa.wire.authority import earliest_end
from hansa.wire.frames import CENTRAL, ROOT, Role
from hansa.wire.node_key import NodeKey
from hansa.wire.tls import Certificate
from hansa.wire.tokens import Identity

__all__ = ["Controller"]

_log = structlog.get_logger(__name__)

_TIME_TO_JOIN = 7 * 86_400.0
"""Seconds for which a join token holds, where its maker does not say it."""


def _unwatched(error: BaseException) -> None:
    _log.error("nobody sees when the certificate ends", exc_info=error)


class Controller:
    """Projects, tokens and trees; `sessions`, `predictions`, `artifacts`, `people`, `nodes` and others do the rest."""

    def __init__(
        self,
        store: MetadataStore,
        objects: ObjectStore,
        keys: SigningKeys,
        *,
        address: str,
        balancer: str = "least-loaded",
        slots: int = 2,
        silence: float = 15.0,
        keep: Policy = KEEP_ALL,
        leads: Callable[[], bool] = lambda: True,
        confinement: Confinement = NO_CONFINEMENT,
        sign_on: Callable[[People], SignOn] | None = None,
        quotas: Quota = UNBOUNDED,
        telemetry: float = KEPT_FOR,
        functions: Limits = DEFAULT_LIMITS,
        spool: Path | None = None,
        data: Path | None = None,
        spans: Callable[[Iterable[Span]], None] | None = None,
        shown: Callable[[], Certificate] | None = None,
    ) -> None:
        """keys: those that sign tokens, and did; address: host:port at which nodes reach the root.

        keep: which models are kept of sessions that do not say it; leads: whether this controller leads still;
        confinement: of apps that run beside it, functions: limits of one call of their functions; sign_on: logging in
        by an OpenID provider, None: nobody does; telemetry: seconds for which what machines tell of themselves is kept;
        quotas: of projects that have none of their own; spool: folder for updates of aggregators that keep them; data:
        folder that code beside it may read; spans: told of those of each round that is over, None: nobody is; shown:
        what its ports show, None: no certificate.
        """
        self.store = store
        self.objects = objects
        self.address = address
        """host:port at which nodes reach the root."""
        self.retention = Retention(store, objects, keep, leads)
        self.quotas = Quotas(store, quotas)
        self.counts = Counts()
        """What has happened since it started, in numbers."""
        self.journal = Journal(store, self.counts.happened)
        self._traces = Traces(store, self.journal, spans) if spans is not None else None
        self.traffic = Traffic()
        """Of the nodes right below it, lately."""
        self.public_key = keys.public
        """PEM: what tokens are verified with."""
        self._key = keys.private
        self._revoked: set[str] = set()
        self.people = People(store, keys.private, self._revoked)
        self.logins = Logins(self.people)
        self._sign_on = sign_on(self.people) if sign_on is not None else None
        self.nodes = Nodes(
            store,
            keys,
            here=lambda node: self.tree(node.project).is_here(node.name, node.grant),
            dismiss=lambda node, why: self.tree(node.project).dismiss(node.name, node.grant, why),
        )
        self.walls = Walls(confinement, self.people)
        self.memory = functions.memory or DEFAULT_MEMORY
        """Bytes that a process of code beside the server may have."""
        self.artifacts = Artifacts(store, self.retention, self.quotas)
        self._central = CentralEvaluation(objects, confinement, data)
        self._functions = AppFunctions(self._central, functions)
        sign = NodeKey.of_pem(keys.private.encode()).sign
        letters = (spool if spool is not None else Path(tempfile.gettempdir())) / "letters"
        self.sessions = Sessions(
            store,
            objects,
            people=self.people,
            quotas=self.quotas,
            journal=self.journal,
            retention=self.retention,
            artifacts=self.artifacts,
            walls=self.walls,
            tree=self.tree,
            sign=sign,
            letters=letters,
        )
        self.predictions = Predictions(
            store, people=self.people, quotas=self.quotas, artifacts=self.artifacts, tree=self.tree
        )
        self._trees: dict[str, ProjectTree] = {}
        self._new_tree: Callable[[str], ProjectTree] = partial(
            ProjectTree,
            store=store,
            objects=objects,
            retention=self.retention,
            journal=self.journal,
            balancer=plugin("hansa.balancers", balancer),
            address=address,
            central=self._central.evaluate,
            functions=self._functions,
            quotas=self.quotas,
            slots=slots,
            silence=silence,
            refusal=self.nodes.refusal,
            keys_of=self.nodes.keys_of,
            sign=sign,
            beside=BesideServer(self._central, self.artifacts.add_model, self.journal),
            letters=letters,
            telemetry=telemetry,
            spool=spool,
            uploaded=self.counts.uploaded,
        )
        self._opened = asyncio.Event()
        """Set once the sessions are taken up that were running."""
        self._finishing: asyncio.Task[None] | None = None
        self._shown = shown
        self._jobs = Jobs()

    async def recall(self) -> None:
        """Remember who may call: before anybody can."""
        await self.people.recall(INSTALLATION)
        for project in await self._projects():
            await self.people.recall(project.id)
            await self.nodes.recall(project.id)
            await self.tree(project.id).recall()
            await self._trace(project.id)

    async def open(self) -> None:
        """Take up every session that was running when the controller last ended, and what was to be removed."""
        self._finishing = asyncio.create_task(self._finish())
        if self._shown is not None:
            self._jobs.start(watch_end(self._shown), _unwatched)
        for project in await self._projects():
            await self.tree(project.id).mark_absent()
            running = Query(project.id, where={"state": SessionState.RUNNING.value})
            for session in [each async for each in every(self.store, SessionRecord, running)]:
                await self.sessions.take_up(session)
            for prediction in [each async for each in every(self.store, PredictionRecord, running)]:
                await self.predictions.take_up(prediction)
        self._opened.set()

    async def aclose(self) -> None:
        """Leave; running sessions are taken up by the next `open`."""
        if self._finishing is not None:
            self._finishing.cancel()
            await asyncio.gather(self._finishing, return_exceptions=True)
        await self._jobs.aclose()
        for tree in self._trees.values():
            await tree.aclose()
        await self._central.aclose()
        if self._sign_on is not None:
            await self._sign_on.aclose()
        await self.journal.aclose()
        if self._traces is not None:
            await self._traces.aclose()

    @property
    def studio_sign_on(self) -> str:
        """Where browsers come back to that log in by an OpenID provider at the Studio; empty: they may not."""
        return self._sign_on.redirect if self._sign_on is not None else ""

    @property
    def sign_on(self) -> SignOn:
        """Logging in by an OpenID provider; raises `NotFoundError` where none is set."""
        if self._sign_on is None:
            raise NotFoundError(
                "this server knows no OpenID provider: log in with a name and a password, or have HANSA_OIDC_ISSUER set"
            )
        return self._sign_on

    def place_of(self, session: str, number: int | None) -> Place | None:
        """Where the span of a session is found in traces, or that of a round of it; None where nobody is told any."""
        return self._traces.place_of(session, number) if self._traces is not None else None

    async def certificate_ends(self) -> float | None:
        """When what its ports show ends, in POSIX seconds; None: they show none."""
        if self._shown is None:
            return None
        return earliest_end((await asyncio.to_thread(self._shown)).chain)

    def tree(self, project: str) -> ProjectTree:
        """A project's network."""
        if project not in self._trees:
            self._trees[project] = self._new_tree(project)
        return self._trees[project]

    @property
    def trees(self) -> Mapping[str, ProjectTree]:
        """The networks that are open, by project."""
        return MappingProxyType(self._trees)

    def hub(self, identity: Identity) -> Hub:
        """The root that a node of this identity attaches to."""
        return self.tree(identity.project).hub

    async def conversation(self, identity: Identity, session: str) -> Conversation:
        """What is said in a session of the node's project; raises `NotFoundError`. Who may say what, it knows."""
        await self._opened.wait()
        return self.tree(identity.project).conversation(session)

    async def assign(self, identity: Identity, preferred: str, labels: Mapping[str, str]) -> tuple[str, str]:
        """(name, address) of the server for a node; raises `QuotaExceededError` for a client too many."""
        most = (await self.quotas.of(identity.project)).clients if identity.role is Role.CLIENT else None
        directory, now = self.tree(identity.project).directory, asyncio.get_running_loop().time()
        present = directory.present(now)
        if most is not None and identity.name not in present and len(present) >= most:
            raise await self.quotas.refuse_client(identity.project, identity.name, len(present), most)
        server = directory.assign(identity.name, identity.role, preferred, labels, now)
        return server.name, server.address

    # ── projects and tokens ──────────────────────────────────────────────────────────────────────────────────────

    async def create_project(self, project: str, by: str = SERVER) -> ProjectRecord:
        """A new project, without members; raises `ConflictError` when there is one of this name."""
        record = ProjectRecord(checked_name(project, "project"), project, time.time())
        await self.store.create(record, audit_line(project, by, "project.create", project))
        await self._trace(project)
        return record

    async def issue_token(
        self, project: str, name: str, role: Role, expires_in: float | None = None, by: str = SERVER
    ) -> tuple[str, TokenRecord]:
        """A token with which a node joins, once; expires_in: seconds, None: a week. The token is not kept."""
        if role is Role.PERSON:
            raise ConfigError(f"{name!r} would be a person: people log in, and make API tokens for themselves")
        if name in {CENTRAL, ROOT}:
            raise ConfigError(f"{name!r} is hansa's own name; choose another for this {role.value}")
        checked_name(name, "node")
        holds = _TIME_TO_JOIN if expires_in is None else expires_in
        token, jti = tokens.issue(self._key, name, role, project, holds, audience=tokens.JOINING)
        now = time.time()
        record = TokenRecord(jti, project, name, role.value, now, now + holds)
        told = audit_line(project, by, "token.issue", jti, detail=f"{name} ({role.value})")
        async with self.quotas.admitting(project, name, by) if role is Role.CLIENT else nullcontext():
            await self.store.create(record, told)
        return token, record

    async def revoke_token(self, project: str, token_id: str, by: str = SERVER) -> TokenRecord:
        """A token, a node's or a person's, that is refused from now on; with it the node that has joined by it."""
        token = await self.people.refuse(await self.store.get(TokenRecord, project, token_id), by)
        await self.nodes.token_revoked(token, by)
        return token

    def verify(self, token: str) -> Identity:
        """Who holds this token; raises `AuthenticationError`."""
        identity = tokens.verify(self.public_key, token)
        if identity.role is not Role.PERSON:
            self.nodes.check(identity)
        elif identity.token_id in self._revoked:
            raise AuthenticationError(f"the token of {identity.name} was revoked; ask the operator for another")
        return identity

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _projects(self) -> list[ProjectRecord]:
        return [each async for each in every(self.store, ProjectRecord, Query(""))]

    async def _trace(self, project: str) -> None:
        """Make traces of its sessions from now on, where somebody wants them."""
        if self._traces is not None:
            await self._traces.follow(project)

    async def _finish(self) -> None:
        """Remove what the last controller had still to remove."""
        try:
            await patiently(self.retention.finish, who="retention")
        except HansaError as error:
            _log.error("what was pruned before could not be removed", why=str(error))
