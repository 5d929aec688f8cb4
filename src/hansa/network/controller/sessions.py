"""What may be done with sessions: each is created, started, stopped, kept, exported and deleted here."""

import asyncio
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import structlog

from hansa.errors import ConfigError, ConflictError, HansaError
from hansa.messages import RunSpec
from hansa.network.controller.artifacts import Artifacts
from hansa.network.controller.audit import SERVER, audit_line
from hansa.network.controller.commit import Sign, sealed
from hansa.network.controller.export import Models
from hansa.network.controller.export import export as export_bundle
from hansa.network.controller.journal import Journal, event
from hansa.network.controller.names import checked_name
from hansa.network.controller.people import People
from hansa.network.controller.quotas import Quotas
from hansa.network.controller.retention import PruneReport, Retention
from hansa.network.controller.tree import ProjectTree
from hansa.network.controller.walls import Walls
from hansa.rounds.why import Why
from hansa.run import MAX_ROUNDS, check_networked, check_program, resolve
from hansa.store.paging import every
from hansa.store.ports import MetadataStore, ObjectStore, Query
from hansa.store.records import ProjectRecord, SessionRecord, SessionState
from hansa.store.retention import Policy
from hansa.wire.frames import CENTRAL

__all__ = ["Sessions"]

_log = structlog.get_logger(__name__)


class Sessions:
    """The sessions of every project; the tree of their project runs them."""

    def __init__(
        self,
        store: MetadataStore,
        objects: ObjectStore,
        *,
        people: People,
        quotas: Quotas,
        journal: Journal,
        retention: Retention,
        artifacts: Artifacts,
        walls: Walls,
        tree: Callable[[str], ProjectTree],
        sign: Sign,
        letters: Path,
    ) -> None:
        """tree: of a project; sign: with the server's own key; letters: see `ProgramSurroundings`."""
        self._store = store
        self._objects = objects
        self._people = people
        self._quotas = quotas
        self._journal = journal
        self._retention = retention
        self._artifacts = artifacts
        self._walls = walls
        self._tree = tree
        self._sign = sign
        self._letters = letters
        self._changing = asyncio.Lock()
        """Held from reading a session that does not run to starting, storing or deleting it."""

    async def create(
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
        await self._store.get(ProjectRecord, project, project)
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
        async with self._artifacts.held(project, seed_model, package):
            await self._store.create(session, told)
        await self._journal.record(event(project, session.id, "session.created", f"session {session.name} was created"))
        return session

    async def start(self, project: str, session_id: str, by: str = SERVER, *, further: int = 0) -> SessionRecord:
        """Run a created session, or go on with one that has ended after its last committed round.

        further: rounds beyond those that it was to commit, which one that has finished needs; its algorithm goes on
        with its state.
        """
        tree = self._tree(project)
        async with self._changing:
            session = await self._store.get(SessionRecord, project, session_id)
            _check_not_simulated(session)
            if _runs_beside(session):
                await self._walls.need(project, by)
            if not await _runs(tree, session):
                await self._quotas.need_session(project, tree.running, by)
                session = await self._continued(session, further)
            tree.start(session)
        await self._people.note(audit_line(project, by, "session.start", session_id, detail=session.name))
        await tree.under_way(session_id)
        return await self._store.get(SessionRecord, project, session_id)

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
        await self._store.put(continued, told)
        self._journal.notify(told)
        return continued

    async def stop(self, project: str, session_id: str, who: str) -> SessionRecord:
        """Stop a running session; what is committed stays, and it can be resumed."""
        _check_not_simulated(await self._store.get(SessionRecord, project, session_id))
        await self._people.note(audit_line(project, who, "session.stop", session_id))
        await self._tree(project).stop(session_id, f"stopped by {who}")
        return await self._store.get(SessionRecord, project, session_id)

    async def delete(self, project: str, session_id: str, by: str = SERVER) -> None:
        """Delete a session that does not run, with its records, and the objects that nobody else needs."""
        async with self._changing:
            session = await self._store.get(SessionRecord, project, session_id)
            simulating = session.engine is not None and session.state is SessionState.RUNNING
            if simulating or await _runs(self._tree(project), session):
                raise ConflictError(f"session {session.name} is running; stop it before you delete it")
            told = audit_line(project, by, "session.delete", session_id, detail=session.name)
            await self._store.delete_session(project, session_id, told)
            await asyncio.to_thread(shutil.rmtree, self._letters / session_id, ignore_errors=True)
        await self._journal.record(event(project, "", "session.deleted", f"session {session.name} was deleted"))
        await self._retention.finish_deletion(session_id)

    async def keep(self, project: str, session_id: str, keep: str | None, by: str = SERVER) -> SessionRecord:
        """Keep a session's models by another policy, from its next round or the next `prune` on; None: the default."""
        policy, tree = _policy(keep), self._tree(project)
        async with self._changing:
            session = await self._store.get(SessionRecord, project, session_id)
            if tree.is_running(session_id):
                await tree.keep(session_id, policy)
            else:
                await self._store.put(replace(session, keep=policy))
        await self._people.note(audit_line(project, by, "session.keep", session_id, detail=policy or "the default"))
        said = f"session {session.name} keeps the models of: {policy or 'the default'}"
        await self._journal.record(event(project, session_id, "session.keep", said, keep=policy))
        return await self._store.get(SessionRecord, project, session_id)

    async def prune(self, project: str, *, dry_run: bool, grace: float, by: str = SERVER) -> PruneReport:
        """Apply the policies of the sessions that do not run, and remove what no row has named for `grace` seconds.

        A session that runs prunes after each round. What nobody names is removed whichever project it was of.
        """
        tree = self._tree(project)
        idle = [
            session
            async for session in every(self._store, SessionRecord, Query(project))
            if not tree.is_running(session.id)
        ]
        report = await self._retention.sweep(idle, grace, dry_run=dry_run)
        if not dry_run:
            said = f"{report.objects} objects, {report.bytes} bytes; grace {grace:g} s"
            await self._people.note(audit_line(project, by, "prune", project, detail=said))
        return report

    async def export(self, project: str, session_id: str, models: Models, file: Path, by: str = SERVER) -> None:
        """Write a session's bundle to a file, for third parties to verify."""
        await self._store.get(SessionRecord, project, session_id)
        told = audit_line(project, by, "session.export", session_id, detail=f"models: {models}")
        await self._people.note(told)
        holds, sign = self._retention.holds, self._sign
        await export_bundle(
            self._store, self._objects, holds, sign, project=project, session=session_id, models=models, file=file
        )

    async def why(self, project: str, session_id: str) -> tuple[Why | None, str]:
        """What a session waits for: the phase, None when none is under way, and the store that is away, else empty."""
        await self._store.get(SessionRecord, project, session_id)
        tree = self._tree(project)
        return tree.why(session_id), tree.away(session_id)

    async def take_up(self, session: SessionRecord) -> None:
        """Go on with one that was running when the controller last ended; one that cannot has failed."""
        project = session.project
        try:
            _check_not_simulated(session)
            self._tree(project).start(session)
            _log.info("session goes on", session=session.id, round=session.round)
        except HansaError as error:  # for example a plug-in that is not installed any more
            cause = f"it could not go on when the controller came back: {type(error).__name__}: {error}"
            ended = replace(session, state=SessionState.FAILED, cause=cause, ended_at=time.time())
            seal = await sealed(ended, ended.state, cause, self._store, self._sign)
            await self._store.put(ended, event(project, session.id, f"session.{ended.state}", cause, **seal))
            _log.error("a session could not go on", session=session.id, why=str(error))


def _check_not_simulated(session: SessionRecord) -> None:
    if session.engine is not None:
        raise ConflictError(
            f"session {session.name} is a simulation, which is driven by its own process: start its app as a session, "
            "or simulate it again"
        )


async def _runs(tree: ProjectTree, session: SessionRecord) -> bool:
    """Whether a session runs; of one that has just been stored as ended, what is left of its end is awaited."""
    if session.ended_at is not None:
        await tree.over(session.id)
    return tree.is_running(session.id)


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
