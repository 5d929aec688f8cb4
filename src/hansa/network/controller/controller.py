"""The control plane as one object: what the REST API, and nothing else, drives."""

import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import structlog
from blake3 import blake3

from hansa.errors import (
    AuthenticationError,
    ConfigError,
    ConflictError,
    HansaError,
    NotFoundError,
    PermissionDeniedError,
    PrunedError,
    StorageUnavailableError,
)
from hansa.messages import RunSpec
from hansa.network.client.confinement import NO_CONFINEMENT, Confinement
from hansa.network.client.limits import Limits
from hansa.network.combiner.hub import Hub
from hansa.network.combiner.traffic import Traffic
from hansa.network.controller.audit import SERVER, audit_line
from hansa.network.controller.beside import BesideServer
from hansa.network.controller.central import CentralEvaluation
from hansa.network.controller.commit import sealed
from hansa.network.controller.conversation import Conversation
from hansa.network.controller.export import Models, export
from hansa.network.controller.functions import DEFAULT_LIMITS, DEFAULT_MEMORY, AppFunctions
from hansa.network.controller.journal import Journal, event
from hansa.network.controller.logins import Logins
from hansa.network.controller.names import checked_name
from hansa.network.controller.nodes import Nodes
from hansa.network.controller.people import People
from hansa.network.controller.quotas import UNBOUNDED, Quota, Quotas
from hansa.network.controller.retention import PruneReport, Retention
from hansa.network.controller.samples import KEPT_FOR
from hansa.network.controller.sign_on import SignOn
from hansa.network.controller.signing_keys import SigningKeys
from hansa.network.controller.tree import ProjectTree
from hansa.network.patience import patiently
from hansa.packages.package import read as read_package
from hansa.rounds.why import Why
from hansa.run import MAX_ROUNDS, check_networked, check_program, plugin, resolve
from hansa.store.paging import every
from hansa.store.ports import MetadataStore, ObjectStore, Query
from hansa.store.records import (
    INSTALLATION,
    AuditRecord,
    ClientRecord,
    ModelRecord,
    PackageRecord,
    PredictionRecord,
    ProjectRecord,
    SessionRecord,
    SessionState,
    TokenRecord,
)
from hansa.store.retention import KEEP_ALL, Policy
from hansa.wire import codec, tokens
from hansa.wire.frames import CENTRAL, ROOT, Role
from hansa.wire.node_key import NodeKey
from hansa.wire.tokens import Identity

__all__ = ["Controller"]

_log = structlog.get_logger(__name__)

_TIME_TO_JOIN = 7 * 86_400.0
"""Seconds for which a join token holds, where its maker does not say it."""
_SHOWN = 5
"""Rounds that an error names."""


class Controller:
    """Sessions, models, packages, tokens and the trees of every project."""

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
    ) -> None:
        """keys: those that sign tokens, and did; address: host:port at which nodes reach the root.

        keep: which models are kept of sessions that do not say it; leads: whether this controller leads still;
        confinement: of apps that run beside it, functions: limits of one call of their functions; sign_on: logging in
        by an OpenID provider, None: nobody does; telemetry: seconds for which what machines tell of themselves is kept;
        quotas: of projects that have none of their own; spool: folder for updates of aggregators that keep them; data:
        folder that code beside it may read.
        """
        self.store = store
        self.objects = objects
        self.retention = Retention(store, objects, keep, leads)
        self.quotas = Quotas(store, quotas)
        self.journal = Journal(store)
        self.traffic = Traffic()
        """Of the nodes right below it, lately."""
        self.public_key = keys.public
        """PEM: what tokens are verified with."""
        self._key = keys.private
        self._signer = NodeKey.of_pem(keys.private.encode())
        self._address = address
        self._balancer = plugin("hansa.balancers", balancer)
        self._slots = slots
        self._silence = silence
        self._spool = spool
        self._telemetry = telemetry
        self._trees: dict[str, ProjectTree] = {}
        self._revoked: set[str] = set()
        self.people = People(store, keys.private, self._revoked)
        self.logins = Logins(self.people)
        self.nodes = Nodes(
            store,
            keys,
            here=lambda node: self.tree(node.project).is_here(node.name, node.grant),
            dismiss=lambda node, why: self.tree(node.project).dismiss(node.name, node.grant, why),
        )
        self._sign_on = sign_on(self.people) if sign_on is not None else None
        self._central = CentralEvaluation(objects, confinement, data)
        self._functions = AppFunctions(self._central, functions)
        self._beside = BesideServer(self._central, self.add_model, self.journal)
        self._letters = (spool if spool is not None else Path(tempfile.gettempdir())) / "letters"
        self._opened = asyncio.Event()
        """Set once the sessions are taken up that were running."""
        self._changing = asyncio.Lock()
        """Held from reading a session that does not run to starting, storing or deleting it."""
        self._finishing: asyncio.Task[None] | None = None

    async def recall(self) -> None:
        """Remember who may call: before anybody can."""
        await self.people.recall(INSTALLATION)
        for project in await self._projects():
            await self.people.recall(project.id)
            await self.nodes.recall(project.id)
            await self.tree(project.id).recall()

    async def open(self) -> None:
        """Take up every session that was running when the controller last ended, and what was to be removed."""
        self._finishing = asyncio.create_task(self._finish())
        for project in await self._projects():
            await self.tree(project.id).mark_absent()
            running = Query(project.id, where={"state": SessionState.RUNNING.value})
            for session in [each async for each in every(self.store, SessionRecord, running)]:
                await self._take_up(project.id, session)
            for prediction in [each async for each in every(self.store, PredictionRecord, running)]:
                await self._ask_again(prediction)
        self._opened.set()

    async def _take_up(self, project: str, session: SessionRecord) -> None:
        try:
            _check_not_simulated(session)
            self.tree(project).start(session)
            _log.info("session goes on", session=session.id, round=session.round)
        except HansaError as error:  # for example a plug-in that is not installed any more
            cause = f"it could not go on when the controller came back: {type(error).__name__}: {error}"
            ended = replace(session, state=SessionState.FAILED, cause=cause, ended_at=time.time())
            seal = await sealed(ended, ended.state, cause, self.store, self._signer.sign)
            await self.store.put(ended, event(project, session.id, f"session.{ended.state}", cause, **seal))
            _log.error("a session could not go on", session=session.id, why=str(error))

    async def _ask_again(self, prediction: PredictionRecord) -> None:
        try:
            self.tree(prediction.project).predict(prediction)
        except HansaError as error:  # for example a plug-in that is not installed any more
            cause = f"it could not go on when the controller came back: {type(error).__name__}: {error}"
            await self.store.put(replace(prediction, state=SessionState.FAILED, cause=cause, ended_at=time.time()))
            _log.error("a prediction could not go on", prediction=prediction.id, why=str(error))

    async def aclose(self) -> None:
        """Leave; running sessions are taken up by the next `open`."""
        if self._finishing is not None:
            self._finishing.cancel()
            await asyncio.gather(self._finishing, return_exceptions=True)
        for tree in self._trees.values():
            await tree.aclose()
        await self._central.aclose()
        if self._sign_on is not None:
            await self._sign_on.aclose()
        await self.journal.aclose()

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

    @property
    def address(self) -> str:
        """host:port at which nodes reach the root."""
        return self._address

    @property
    def confinement(self) -> Confinement:
        """Of code that sessions bring, where it runs beside the server."""
        return self._central.confinement

    @property
    def memory(self) -> int:
        """Bytes that a process of such code may have."""
        return self._functions.limits.memory or DEFAULT_MEMORY

    async def need_walls(self, project: str, by: str) -> None:
        """Before an app's code is run beside the server. by: who asks for it.

        Where the server's own files cannot be hidden from it, its author could take the server's keys: then only who
        has those anyway may ask. Raises `PermissionDeniedError` for anybody else.
        """
        walls = self.confinement
        if walls.waived or "files" in walls.enforced or by == SERVER or (await self.people.account(by)).admin:
            return
        await self.people.note(audit_line(project, by, "app.run", project, outcome="refused", detail="no walls"))
        raise PermissionDeniedError(
            f"{by} may not run code beside this server, which cannot hide its keys from it ({walls.why_not}): install "
            "bubblewrap there, have a site administrator run it, or run nothing there: no functions of the package, no "
            "central evaluation (evaluation.central), no party `central`"
        )

    def tree(self, project: str) -> ProjectTree:
        """A project's network."""
        if project not in self._trees:
            self._trees[project] = ProjectTree(
                project,
                store=self.store,
                objects=self.objects,
                retention=self.retention,
                journal=self.journal,
                balancer=self._balancer,
                address=self._address,
                central=self._central.evaluate,
                functions=self._functions,
                quotas=self.quotas,
                slots=self._slots,
                silence=self._silence,
                refusal=self.nodes.refusal,
                keys_of=self.nodes.keys_of,
                sign=self._signer.sign,
                beside=self._beside,
                letters=self._letters,
                telemetry=self._telemetry,
                spool=self._spool,
            )
        return self._trees[project]

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

    async def label_client(
        self, project: str, client: str, labels: Mapping[str, str | None], by: str = SERVER
    ) -> ClientRecord:
        """Give a client labels, or take away those that operators gave it (None); raises `NotFoundError`."""
        return await self.tree(project).label(client, labels, by)

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

    # ── models and packages ──────────────────────────────────────────────────────────────────────────────────────

    async def add_model(
        self,
        project: str,
        file: bytes | memoryview,
        name: str = "",
        by: str = SERVER,
        *,
        parent: str | None = None,
    ) -> ModelRecord:
        """A seed model, as a safetensors file; raises `WireError` when it is none.

        parent: digest of the model that it was made from elsewhere; raises `NotFoundError` unless it is here.
        """
        if parent is not None:
            await self.find_model(project, parent)
        arrays = await asyncio.to_thread(codec.decode, file)
        digest, size = await asyncio.to_thread(codec.digest, arrays), codec.size(arrays)
        record = ModelRecord(digest, project, "", 0, parent, size, time.time(), name)
        told = audit_line(project, by, "model.upload", digest, detail=name)
        await self._keep(project, codec.encode(arrays), record, told)
        return record

    async def find_model(self, project: str, digest: str) -> ModelRecord:
        """A model's record, one that holds on to its bytes if there is one; raises `NotFoundError`."""
        page = await self.store.list(ModelRecord, Query(project, where={"id": digest}, limit=1000))
        if not page.items:
            raise NotFoundError(f"there is no model {digest!r} in project {project!r}")
        return min(page.items, key=lambda record: record.pruned_at is not None)

    async def model_with_bytes(self, project: str, digest: str) -> ModelRecord:
        """The same, and its bytes are there; raises `PrunedError` that says which models are."""
        record = await self.find_model(project, digest)
        if record.pruned_at is None:
            return record
        newest = Query(project, where={"session": record.session}, sort="-round", limit=1000)
        kept = [str(m.round) for m in (await self.store.list(ModelRecord, newest)).items if m.pruned_at is None]
        more = " …" if len(kept) > _SHOWN else ""
        raise PrunedError(
            f"model {digest[:12]}… of round {record.round} of session {record.session} was pruned on "
            f"{time.strftime('%Y-%m-%d', time.gmtime(record.pruned_at))} by the policy `keep {record.pruned_by}`: its "
            f"record is kept, its bytes are not; kept are the models of rounds {', '.join(kept[:_SHOWN])}{more} "
            f"(hansa model list --session {record.session})"
        )

    async def add_package(self, project: str, archive: bytes, by: str = SERVER) -> PackageRecord:
        """User code for sessions; raises `AppError` when it is no safe package, or its signature does not hold."""
        package = await asyncio.to_thread(read_package, archive)
        await asyncio.to_thread(package.signer)
        name, digest = checked_name(package.manifest.name, "package"), blake3(archive).hexdigest()
        record = PackageRecord(digest, project, name, len(archive), time.time())
        told = audit_line(project, by, "package.upload", digest, detail=name)
        await self._keep(project, [archive], record, told)
        return record

    async def add_archive(self, project: str, archive: bytes, name: str, by: str = SERVER) -> PackageRecord:
        """Code for another system's clients, which fetch it as it is: nothing here opens or runs it."""
        digest = blake3(archive).hexdigest()
        record = PackageRecord(digest, project, checked_name(name, "package"), len(archive), time.time())
        await self._keep(project, [archive], record, audit_line(project, by, "package.upload", digest, detail=name))
        return record

    async def delete_model(self, project: str, digest: str, by: str = SERVER) -> None:
        """Delete an uploaded model; raises `ConflictError` when a session, a prediction or another model names it."""
        uploaded = await self.store.list(ModelRecord, Query(project, {"id": digest, "session": ""}, limit=1))
        if not uploaded.items:
            found = await self.find_model(project, digest)
            raise ConflictError(
                f"model {digest[:12]}… is that of round {found.round} of session {found.session}: change which models "
                "the session keeps (`hansa session keep`), or delete it"
            )
        await self._delete_upload(ModelRecord, project, digest, audit_line(project, by, "model.delete", digest))

    async def delete_package(self, project: str, package: str, by: str = SERVER) -> None:
        """Delete a package; raises `ConflictError` when a session or a prediction names it."""
        await self._delete_upload(PackageRecord, project, package, audit_line(project, by, "package.delete", package))

    async def _delete_upload(
        self, kind: type[ModelRecord] | type[PackageRecord], project: str, digest: str, told: AuditRecord
    ) -> None:
        """The row, and the bytes as soon as nobody uses them."""
        with self.retention.holds.claim([digest]) as free:
            if not free:
                raise ConflictError(f"{digest[:12]}… is being used at this moment: delete it later")
            await self.store.delete_upload(kind, project, digest, told)
        await self._finish_removals(digest)

    async def name_model(self, project: str, digest: str, name: str, by: str = SERVER) -> ModelRecord:
        """Call a model something; raises `NotFoundError`."""
        record = replace(await self.find_model(project, digest), name=name)
        await self.store.put(record, audit_line(project, by, "model.name", digest, detail=name))
        return record

    async def _keep(
        self,
        project: str,
        parts: Sequence[bytes | memoryview],
        record: ModelRecord | PackageRecord,
        told: AuditRecord,
    ) -> None:
        """Store an object and its row, where there is room; raises `QuotaExceededError`, and nothing is stored then."""
        async with self.quotas.storing(project, record.id, record.size, told.actor):
            digest = await self.retention.put(parts)
            try:
                await self.store.put(record, told)
            finally:
                self.retention.holds.release(digest)

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def create_session(
        self,
        project: str,
        spec: RunSpec,
        *,
        seed_model: str | None,
        package: str | None = None,
        keep: str | None = None,
        model_prefix: str | None = None,
        by: str = SERVER,
    ) -> SessionRecord:
        """A session, not started. Raises `ConfigError`, and `NotFoundError` for a foreign model or package.

        seed_model: None for a session of parties, which has none; keep: the policy by which its models are kept; None:
        the server's default; model_prefix: what its models are called, before their round's number; None: nothing.
        """
        spec = replace(spec, project=project)
        _check_spec(spec, seed_model, package)
        await self.store.get(ProjectRecord, project, project)
        session = SessionRecord(
            id=uuid.uuid4().hex[:12],
            project=project,
            name=checked_name(spec.name, "session"),
            spec=spec,
            state=SessionState.CREATED,
            created_at=time.time(),
            package=package,
            seed_model=seed_model,
            keep=_policy(keep),
            model_prefix=None if model_prefix is None else checked_name(model_prefix, "model prefix"),
        )
        told = audit_line(project, by, "session.create", session.id, detail=session.name)
        async with self._naming(project, seed_model, package):
            await self.store.create(session, told)
        await self.journal.record(event(project, session.id, "session.created", f"session {session.name} was created"))
        return session

    async def start_session(
        self, project: str, session_id: str, by: str = SERVER, *, further: int = 0
    ) -> SessionRecord:
        """Run a created session, or go on with one that has ended after its last committed round.

        further: rounds beyond those that it was to commit, which one that has finished needs; its algorithm goes on
        with its state.
        """
        tree = self.tree(project)
        async with self._changing:
            session = await self.store.get(SessionRecord, project, session_id)
            _check_not_simulated(session)
            if _runs_beside(session):
                await self.need_walls(project, by)
            if not tree.is_running(session_id):
                await self.quotas.need_session(project, tree.running, by)
                session = await self._continued(session, further)
            tree.start(session)
        await self.people.note(audit_line(project, by, "session.start", session_id, detail=session.name))
        await tree.under_way(session_id)
        return await self.store.get(SessionRecord, project, session_id)

    async def _continued(self, session: SessionRecord, further: int) -> SessionRecord:
        """The session with further rounds, which are stored before the first of them can be."""
        if not further and session.state is SessionState.FINISHED and session.round >= session.rounds:
            raise ConflictError(
                f"session {session.name} has finished its {session.rounds} rounds; say how many further ones it shall "
                f"have (hansa session resume {session.id} --rounds N), or start a new one from its model"
            )
        if not further:
            return session
        if session.spec.parties:
            raise ConfigError(f"session {session.name} runs a program, which has no rounds: resume it without any")
        if further < 1 or session.rounds + further > MAX_ROUNDS:
            raise ConfigError(f"{further} further rounds: there must be 1 or more, and {MAX_ROUNDS} in all at most")
        continued = replace(session, further=(session.further or 0) + further)
        said = f"session {session.name} is to commit {further} further rounds, {continued.rounds} in all"
        told = event(session.project, session.id, "session.continued", said, rounds=continued.rounds)
        await self.store.put(continued, told)
        self.journal.notify()
        return continued

    async def stop_session(self, project: str, session_id: str, who: str) -> SessionRecord:
        """Stop a running session; what is committed stays, and it can be resumed."""
        _check_not_simulated(await self.store.get(SessionRecord, project, session_id))
        await self.people.note(audit_line(project, who, "session.stop", session_id))
        await self.tree(project).stop(session_id, f"stopped by {who}")
        return await self.store.get(SessionRecord, project, session_id)

    async def delete_session(self, project: str, session_id: str, by: str = SERVER) -> None:
        """Delete a session that does not run, with its records, and the objects that nobody else needs."""
        async with self._changing:
            session = await self.store.get(SessionRecord, project, session_id)
            simulating = session.engine is not None and session.state is SessionState.RUNNING
            if simulating or self.tree(project).is_running(session_id):
                raise ConflictError(f"session {session.name} is running; stop it before you delete it")
            told = audit_line(project, by, "session.delete", session_id, detail=session.name)
            await self.store.delete_session(project, session_id, told)
            await asyncio.to_thread(shutil.rmtree, self._letters / session_id, ignore_errors=True)
        await self.journal.record(event(project, "", "session.deleted", f"session {session.name} was deleted"))
        await self._finish_removals(session_id)

    async def _finish_removals(self, deleted: str) -> None:
        """Remove the bytes that a deletion has freed, now or when the store is back."""
        try:
            await self.retention.finish()
        except StorageUnavailableError as error:
            _log.warning("the objects of what was deleted are removed later", deleted=deleted, why=str(error))

    async def keep_session(self, project: str, session_id: str, keep: str | None, by: str = SERVER) -> SessionRecord:
        """Keep a session's models by another policy, from its next round or the next `prune` on; None: the default."""
        policy, tree = _policy(keep), self.tree(project)
        async with self._changing:
            session = await self.store.get(SessionRecord, project, session_id)
            if tree.is_running(session_id):
                await tree.keep(session_id, policy)
            else:
                await self.store.put(replace(session, keep=policy))
        await self.people.note(audit_line(project, by, "session.keep", session_id, detail=policy or "the default"))
        said = f"session {session.name} keeps the models of: {policy or 'the default'}"
        await self.journal.record(event(project, session_id, "session.keep", said, keep=policy))
        return await self.store.get(SessionRecord, project, session_id)

    async def prune(self, project: str, *, dry_run: bool, grace: float, by: str = SERVER) -> PruneReport:
        """Apply the policies of the sessions that do not run, and remove what no row has named for `grace` seconds.

        A session that runs prunes after each round. What nobody names is removed whichever project it was of.
        """
        tree = self.tree(project)
        idle = [
            session
            async for session in every(self.store, SessionRecord, Query(project))
            if not tree.is_running(session.id)
        ]
        report = await self.retention.sweep(idle, grace, dry_run=dry_run)
        if not dry_run:
            said = f"{report.objects} objects, {report.bytes} bytes; grace {grace:g} s"
            await self.people.note(audit_line(project, by, "prune", project, detail=said))
        return report

    async def export_session(self, project: str, session_id: str, models: Models, file: Path, by: str = SERVER) -> None:
        """Write a session's bundle to a file, for third parties to verify."""
        await self.store.get(SessionRecord, project, session_id)
        told = audit_line(project, by, "session.export", session_id, detail=f"models: {models}")
        await self.people.note(told)
        holds, sign = self.retention.holds, self._signer.sign
        await export(
            self.store, self.objects, holds, sign, project=project, session=session_id, models=models, file=file
        )

    async def why(self, project: str, session_id: str) -> tuple[Why | None, str]:
        """What a session waits for: the phase, None when none is under way, and the store that is away, else empty."""
        await self.store.get(SessionRecord, project, session_id)
        tree = self.tree(project)
        return tree.why(session_id), tree.away(session_id)

    # ── predictions ──────────────────────────────────────────────────────────────────────────────────────────────

    async def predict(
        self, project: str, spec: RunSpec, *, model: str, package: str | None = None, by: str = SERVER
    ) -> PredictionRecord:
        """Ask the clients that the spec's rules choose what a model predicts of their data.

        Raises `ConfigError`, and `NotFoundError` for a foreign model or package.
        """
        spec = replace(spec, project=project)
        if spec.parties or spec.transforms:
            raise ConfigError("a prediction has neither parties nor transforms: leave them out")
        resolve(spec)
        await self.store.get(ProjectRecord, project, project)
        await self.quotas.need_prediction(project, by)
        prediction = PredictionRecord(
            id=uuid.uuid4().hex[:12],
            project=project,
            name=checked_name(spec.name, "prediction"),
            model=model,
            package=package,
            spec=spec,
            state=SessionState.RUNNING,
            created_at=time.time(),
        )
        async with self._naming(project, model, package):
            tree = self.tree(project)
            told = audit_line(project, by, "prediction.start", prediction.id, detail=prediction.name)
            await self.store.create(prediction, told)
            try:
                tree.predict(prediction)
            except HansaError as error:
                await self.store.put(replace(prediction, state=SessionState.FAILED, cause=str(error)))
                raise
            await asyncio.sleep(0)  # it holds the model itself
        return prediction

    async def stop_prediction(self, project: str, prediction: str, by: str = SERVER) -> PredictionRecord:
        """Stop a prediction that is under way; what was answered is kept."""
        await self.store.get(PredictionRecord, project, prediction)
        await self.people.note(audit_line(project, by, "prediction.stop", prediction))
        await self.tree(project).stop_prediction(prediction, f"stopped by {by}")
        return await self.store.get(PredictionRecord, project, prediction)

    async def delete_prediction(self, project: str, prediction: str, by: str = SERVER) -> None:
        """Delete a prediction that is not under way, with its answers."""
        found = await self.store.get(PredictionRecord, project, prediction)
        if self.tree(project).is_predicting(prediction):
            raise ConflictError(f"prediction {found.name} is under way; stop it before you delete it")
        told = audit_line(project, by, "prediction.delete", prediction, detail=found.name)
        await self.store.delete_prediction(project, prediction, told)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _projects(self) -> list[ProjectRecord]:
        return [each async for each in every(self.store, ProjectRecord, Query(""))]

    async def _finish(self) -> None:
        """Remove what the last controller had still to remove."""
        try:
            await patiently(self.retention.finish, who="retention")
        except HansaError as error:
            _log.error("what was pruned before could not be removed", why=str(error))

    @asynccontextmanager
    async def _naming(self, project: str, model: str | None, package: str | None) -> AsyncIterator[None]:
        """While a row is written that names them, they are there, and nobody deletes them; raises `NotFoundError`."""
        async with AsyncExitStack() as held:
            for digest in filter(None, (model, package)):
                await held.enter_async_context(self.retention.holds.holding(digest))
            if package is not None:
                await self.store.get(PackageRecord, project, package)
            if model is not None:
                await self._need_model(project, model)
            yield

    async def _need_model(self, project: str, digest: str) -> None:
        try:
            await self.model_with_bytes(project, digest)
        except PrunedError:
            raise
        except NotFoundError as error:
            raise NotFoundError(f"project {project} has no model {digest[:12]}…; upload it first") from error


def _check_not_simulated(session: SessionRecord) -> None:
    if session.engine is not None:
        raise ConflictError(
            f"session {session.name} is a simulation, which is driven by its own process: start its app as a session, "
            "or simulate it again"
        )


def _runs_beside(session: SessionRecord) -> bool:
    """Whether code of the session's package runs on the server's machine."""
    spec = session.spec
    evaluates = spec.evaluation.central and spec.evaluation.every > 0 and not spec.parties
    return session.package is not None and (bool(spec.functions) or CENTRAL in spec.parties or evaluates)


def _check_spec(spec: RunSpec, seed_model: str | None, package: str | None) -> None:
    """Raise `ConfigError` unless a session can be of this spec."""
    if not spec.parties:
        check_networked(resolve(spec))
        if seed_model is None:
            raise ConfigError("seed_model is missing: give the model that the session starts from")
        if spec.functions and package is None:
            raise ConfigError(f"the app's {spec.functions[0]} runs beside the server, from the package: there is none")
        return
    check_program(spec)
    if seed_model is not None:
        raise ConfigError("seed_model is given, and parties are: their program brings the models that it starts from")
    if CENTRAL in spec.parties and package is None:
        raise ConfigError(f"{CENTRAL} is a party, which runs the session's package, and there is none")


def _policy(keep: str | None) -> str | None:
    """A policy as it is stored; raises `ConfigError`."""
    return None if keep is None else str(Policy.parse(keep))
