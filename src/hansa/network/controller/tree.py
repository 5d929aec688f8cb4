"""One project's network: the root of its tree, who is connected, and the sessions that run on it."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from hansa.algorithm import Partial
from hansa.errors import ConflictError, HansaError, InputError, NotFoundError
from hansa.network.combiner.hub import Hub
from hansa.network.controller.audit import audit_line
from hansa.network.controller.balancers import Balancer
from hansa.network.controller.commit import Sign
from hansa.network.controller.conversation import Conversation
from hansa.network.controller.directory import Directory
from hansa.network.controller.evaluation import Central
from hansa.network.controller.functions import AppFunctions
from hansa.network.controller.journal import Journal, event
from hansa.network.controller.placement import Placement
from hansa.network.controller.prediction import PredictionRunner, PredictionSurroundings
from hansa.network.controller.program import Beside, ProgramRunner, ProgramSurroundings
from hansa.network.controller.quotas import Quotas
from hansa.network.controller.retention import Retention
from hansa.network.controller.samples import SampleKeeper
from hansa.network.controller.session import SessionRunner, Surroundings
from hansa.network.files import mapped
from hansa.network.patience import patiently
from hansa.rounds.eligible import eligible
from hansa.rounds.why import Why
from hansa.store.paging import every
from hansa.store.ports import MetadataStore, ObjectStore, Query
from hansa.store.records import ClientRecord, CombinerRecord, EventRecord, PredictionRecord, SessionRecord
from hansa.wire.frames import ROOT, Blob, Dismiss, FromNode, LogLine, Presence, Present, RoundKey, Samples

__all__ = ["ProjectTree"]

_log = structlog.get_logger(__name__)

_MOST_LABELS = 64
"""Labels that operators may give one client."""
_MOST_PREDICTIONS = 16
"""That are under way at once."""


class ProjectTree:
    """The root's `Upstream`: reports arrive here and go to the session that they are about."""

    def __init__(
        self,
        project: str,
        *,
        store: MetadataStore,
        objects: ObjectStore,
        retention: Retention,
        journal: Journal,
        balancer: Balancer,
        address: str,
        central: Central,
        functions: AppFunctions,
        quotas: Quotas,
        slots: int,
        silence: float,
        refusal: Callable[[str, str, str], str],
        keys_of: Callable[[str, str], Collection[str]],
        sign: Sign,
        beside: Beside,
        letters: Path,
        telemetry: float,
        spool: Path | None = None,
        uploaded: Callable[[str, float], None] = lambda _project, _seconds: None,
    ) -> None:
        """address: host:port of the controller's own gRPC server; slots, silence: see `Hub`.

        refusal: (project, name, grant) → why a node that has come is none of the network; empty: it is.
        keys_of: (project, name) → the public keys that a node may sign with, empty: none; sign: with the server's own
        key; beside, letters: see `ProgramSurroundings`; spool: see `Hub`; telemetry: seconds for which it is kept;
        uploaded: told of each upload, (project, seconds).
        """
        self.project = project
        self.directory = Directory(address, balancer)
        self.hub = Hub(
            ROOT,
            self,
            slots=slots,
            lease=silence,
            keys_of=partial(keys_of, project),
            refusal=lambda present: refusal(project, present.client, present.grant),
            spool=spool,
            uploaded=partial(uploaded, project),
        )
        self._sign = sign
        self._store = store
        self._objects = objects
        self._retention = retention
        self._journal = journal
        self._central = central
        self._functions = functions
        self._refusal = refusal
        self._quotas = quotas
        self._beside = beside
        self._letters = letters
        self._runners: dict[str, SessionRunner | ProgramRunner] = {}
        self._tasks: dict[str, asyncio.Task[SessionRecord]] = {}
        self._predictions: dict[str, PredictionRunner] = {}
        self._predicting: dict[str, asyncio.Task[PredictionRecord]] = {}
        self._writes: asyncio.Queue[Presence] = asyncio.Queue()
        self._rows = asyncio.Lock()
        """Held from reading rows of nodes to writing them."""
        self._samples = SampleKeeper(project, store, journal, telemetry)
        self._placement = Placement(self.directory, self.hub, self._engages)
        jobs = (self.hub.watch(), self._write_presence(), self._samples.run(), self._placement.run())
        self._jobs = [asyncio.create_task(job) for job in jobs]

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, session: SessionRecord) -> asyncio.Task[SessionRecord]:
        """Run a session in the background; raises `ConflictError` when it runs already, `ConfigError` for its spec."""
        if session.id in self._tasks:
            raise ConflictError(f"session {session.name} is running already")
        runner = self._runner(session)
        task = asyncio.create_task(runner.run(), name=f"session {session.name}")
        self._runners[session.id], self._tasks[session.id] = runner, task
        task.add_done_callback(lambda done: self._ended(session.id, done))
        return task

    def _runner(self, session: SessionRecord) -> SessionRunner | ProgramRunner:
        connected = lambda: frozenset(self.directory.clients)  # noqa: E731 - a view of the directory
        if session.spec.parties:
            program = ProgramSurroundings(
                self._store,
                self._objects,
                self._journal,
                self.hub,
                connected,
                self._quotas,
                self._sign,
                self._beside,
                self._letters,
            )
            return ProgramRunner(session, program)
        may = eligible(session.spec.rules)
        around = Surroundings(
            self._store,
            self._objects,
            self._retention,
            self._journal,
            self.hub,
            connected,
            lambda client: may(client, self.directory.labels(client)),
            self.directory.labels,
            self._functions,
            self._central,
            self._quotas,
            self._sign,
            self._placement.settled,
        )
        return SessionRunner(session, around)

    def predict(self, prediction: PredictionRecord) -> "asyncio.Task[PredictionRecord]":
        """Ask for predictions in the background; raises `ConflictError` where too many are under way."""
        if len(self._predictions) >= _MOST_PREDICTIONS:
            raise ConflictError(
                f"{len(self._predictions)} predictions of {self.project} are under way: wait for one, or stop it"
            )
        may = eligible(prediction.spec.rules)
        around = PredictionSurroundings(
            self._store,
            self._objects,
            self._retention.holds,
            self._journal,
            self.hub,
            lambda: frozenset(self.directory.clients),
            lambda client: may(client, self.directory.labels(client)),
        )
        runner = self._predictions[prediction.id] = PredictionRunner(prediction, around)
        task = asyncio.create_task(runner.run(), name=f"prediction {prediction.name}")
        self._predicting[prediction.id] = task
        task.add_done_callback(lambda done: self._predicted(prediction.id, done))
        return task

    def _predicted(self, prediction: str, task: "asyncio.Task[PredictionRecord]") -> None:
        self._predictions.pop(prediction, None)
        self._predicting.pop(prediction, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a prediction ended in an error of hansa itself", prediction=prediction, exc_info=error)

    async def stop_prediction(self, prediction: str, cause: str) -> None:
        """Stop a prediction and wait until it has; raises `ConflictError` when it is not under way."""
        if prediction not in self._predictions:
            raise ConflictError("the prediction is not under way: there is nothing to stop")
        task = self._predicting[prediction]
        self._predictions[prediction].stop(cause)
        await asyncio.wait([task])

    def is_predicting(self, prediction: str) -> bool:
        """Whether it is under way here."""
        return prediction in self._predictions

    def conversation(self, session: str) -> Conversation:
        """Of a session of parties that runs; raises `NotFoundError`."""
        runner = self._runners.get(session)
        if not isinstance(runner, ProgramRunner):
            raise NotFoundError(f"project {self.project} has no session {session!r} of parties that runs")
        return runner.conversation

    async def under_way(self, session: str) -> None:
        """Wait until a session that was started is stored as running, or has ended."""
        runner, task = self._runners.get(session), self._tasks.get(session)
        if runner is None or task is None:
            return
        noted = asyncio.create_task(runner.row.under_way.wait())
        await asyncio.wait([noted, task], return_when=asyncio.FIRST_COMPLETED)
        noted.cancel()

    async def over(self, session: str) -> None:
        """Wait for the rest of a session that is stored as ended: its last words to those who took part."""
        runner = self._runners.get(session)
        if runner is not None and runner.row.ending:
            await asyncio.wait([self._tasks[session]])

    async def stop(self, session: str, cause: str) -> None:
        """Stop a running session and wait until it has; raises `ConflictError` when it does not run."""
        if session not in self._runners:
            raise ConflictError("the session is not running: there is nothing to stop")
        task = self._tasks[session]
        self._runners[session].stop(cause)
        await asyncio.wait([task])

    async def keep(self, session: str, policy: str | None) -> None:
        """Have a running session keep its models by another policy."""
        await self._runners[session].row.keep(policy)

    def is_running(self, session: str) -> bool:
        """Whether it runs here."""
        return session in self._tasks

    @property
    def running(self) -> int:
        """How many sessions run here."""
        return len(self._tasks)

    @property
    def training(self) -> int:
        """How many of them go by rounds: the rest are of parties."""
        return sum(isinstance(runner, SessionRunner) for runner in self._runners.values())

    @property
    def waiting(self) -> int:
        """How many of them wait for a store that is away."""
        return sum(bool(self.away(session)) for session in self._runners)

    def why(self, session: str) -> Why | None:
        """What a running session, or a prediction, waits for."""
        runner = self._runners.get(session) or self._predictions.get(session)
        return runner.why() if runner is not None else None

    def calls(self, session: str) -> str:
        """Which of the app's functions beside the server a running session waits for; empty while there is none."""
        runner = self._runners.get(session)
        return runner.calls if isinstance(runner, SessionRunner) else ""

    def away(self, session: str) -> str:
        """Which store a running session waits for; empty while there is none."""
        runner = self._runners.get(session)
        if isinstance(runner, ProgramRunner):
            return runner.row.away or runner.conversation.away
        return runner.row.away if runner is not None else ""

    async def aclose(self) -> None:
        """Leave: sessions keep their state and go on when the controller is back."""
        tasks = [*self._tasks.values(), *self._predicting.values(), *self._jobs]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.hub.aclose()

    # ── the root's upstream ──────────────────────────────────────────────────────────────────────────────────────

    def send(self, frame: FromNode) -> None:
        """A report has reached the root."""
        if isinstance(frame, Presence):
            self._apply(frame)
        elif isinstance(frame, LogLine):
            if self._takes_part(frame.key, frame.client):
                self._journal.live(
                    self.project, frame.key.run, "log", client=frame.client, line=frame.line, level=frame.level
                )
        elif isinstance(frame, Samples):  # of predictions none are kept
            if frame.key is None or (frame.key.run in self._runners and self._takes_part(frame.key, frame.client)):
                self._samples.take(frame)
        else:
            key = getattr(frame, "key", None)
            run = key.run if isinstance(key, RoundKey) else ""
            runner = self._runners.get(run) or self._predictions.get(run)
            if runner is not None:
                runner.receive(frame)

    def _takes_part(self, key: RoundKey, client: str) -> bool:
        """Whether what a client says of a session or a prediction is heard: it runs, and has asked that client."""
        runner = self._runners.get(key.run) or self._predictions.get(key.run)
        return runner is not None and runner.takes_part(client)

    def _engages(self, client: str) -> bool:
        return any(runner.engages(client) for runner in (*self._runners.values(), *self._predictions.values()))

    async def deliver(self, key: RoundKey, partial: Partial | None) -> None:
        """The root's sum of a sealed phase."""
        if key.run in self._runners:
            self._runners[key.run].delivered(key, partial)

    async def fetch(self, blob: Blob) -> memoryview:
        """The bytes of an object, mapped into memory; clients that need them wait for a store that is away."""
        path = await patiently(lambda: self._objects.fetch(blob.digest), who=f"project {self.project}")
        try:
            return await asyncio.to_thread(mapped, path)
        except FileNotFoundError as error:  # given up and removed since the store has named its file
            raise NotFoundError(f"the object {blob.digest[:12]}… was removed: no round needs it any more") from error

    # ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def recall(self) -> None:
        """Remember the labels that operators gave: before anybody is invited."""
        rows = every(self._store, ClientRecord, Query(self.project))
        self.directory.assigned |= {row.name: row.assigned async for row in rows if row.assigned}

    async def mark_absent(self) -> None:
        """Nobody is connected before they have come (again), whatever the rows said when the controller ended."""
        was_connected = Query(self.project, where={"connected": True}, limit=1000)
        while True:
            async with self._rows:
                clients = (await self._store.list(ClientRecord, was_connected)).items
                combiners = (await self._store.list(CombinerRecord, was_connected)).items
                here = self.directory
                stale: list[ClientRecord | CombinerRecord] = [
                    *(replace(row, connected=False, combiner="") for row in clients if row.name not in here.clients),
                    *(replace(row, connected=False) for row in combiners if row.name not in here.combiners),
                ]
                if not stale:
                    return
                await self._store.put(*stale)

    async def label(self, client: str, labels: Mapping[str, str | None], by: str) -> ClientRecord:
        """Give a client labels, or take them away (None); raises `NotFoundError` for one that has never connected.

        A session that waits for clients hears of one that it may invite now; what it was invited to before it ends.
        """
        async with self._rows:
            known = await self._store.get(ClientRecord, self.project, f"{self.project}/{client}")
            assigned = {key: value for key, value in {**(known.assigned or {}), **labels}.items() if value is not None}
            if len(assigned) > _MOST_LABELS:
                raise InputError(f"{client} would have {len(assigned)} labels; operators may give it {_MOST_LABELS}")
            labelled = replace(known, assigned=assigned or None)
            said = " ".join(f"{key}={value}" if value is not None else f"-{key}" for key, value in labels.items())
            await self._store.put(labelled, audit_line(self.project, by, "client.label", client, detail=said))
        self.directory.assigned[client] = assigned
        await self._journal.record(event(self.project, "", "client.labelled", f"{client}: {said}", name=client))
        present = self.directory.clients.get(client)
        if present is not None:
            for runner in (*self._runners.values(), *self._predictions.values()):
                runner.presence(Presence((present,)))
        return labelled

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    def is_here(self, name: str, grant: str) -> bool:
        """Whether a node is connected by this grant."""
        present = self.directory.clients.get(name) or self.directory.combiners.get(name)
        return present is not None and present.grant == grant

    def dismiss(self, name: str, grant: str, why: str) -> None:
        """End the stream that a node has by a grant; what it was to do in a round goes to another."""
        self.hub.receive_from_parent(Dismiss(name, grant, why))
        for runner in (*self._runners.values(), *self._predictions.values()):
            runner.dismissed(name, why)

    def _apply(self, presence: Presence) -> None:
        """Those who have come with a grant that holds no more are sent away again, and are known to nobody."""
        refused = {
            present.client: (present.grant, why)
            for present in (*presence.joined, *presence.combiners)
            if (why := self._refusal(self.project, present.client, present.grant))
        }
        for name, (grant, why) in refused.items():
            self.hub.receive_from_parent(Dismiss(name, grant, why))
        presence = Presence(
            tuple(present for present in presence.joined if present.client not in refused),
            presence.left,
            tuple(present for present in presence.combiners if present.client not in refused),
        )
        self.directory.apply(presence)
        self._placement.heard(presence)
        for runner in (*self._runners.values(), *self._predictions.values()):
            runner.presence(presence)
        self._writes.put_nowait(presence)

    def _ended(self, session: str, task: "asyncio.Task[SessionRecord]") -> None:
        self._runners.pop(session, None)
        self._tasks.pop(session, None)
        self._samples.forget(session)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a session ended in an error of hansa itself", session=session, exc_info=error)
            self._journal.later(event(self.project, session, "session.crashed", f"{type(error).__name__}: {error}"))

    async def _write_presence(self) -> None:
        """Keep the rows of clients and combiners; the directory in memory is what decisions are made on."""
        while True:
            presence = await self._writes.get()
            try:
                await patiently(partial(self._write, presence, time.time()), who=f"project {self.project}")
            except HansaError as error:  # rows are for people; decisions are made on the directory in memory
                _log.error("who is connected could not be stored", project=self.project, why=str(error))

    async def _write(self, presence: Presence, now: float) -> None:
        async with self._rows:
            await self._write_rows(presence, now)

    async def _write_rows(self, presence: Presence, now: float) -> None:
        records = [await self._client(present, now) for present in presence.joined]
        combiners = [await self._combiner(present, now) for present in presence.combiners]
        gone = [record for name in presence.left for record in await self._gone(name, now)]
        events = [
            *(self._event("node.left", name, "is gone") for name in presence.left),
            *(self._event("client.connected", p.client, f"connected to {_said(p)}") for p in presence.joined),
            *(self._event("combiner.connected", p.client, f"serves below {_said(p)}") for p in presence.combiners),
        ]
        joined = [
            *(audit_line(self.project, p.client, "client.join", p.combiner) for p in presence.joined),
            *(audit_line(self.project, p.client, "combiner.join", p.combiner) for p in presence.combiners),
        ]
        await self._store.put(*records, *combiners, *gone, *joined)
        await self._journal.record(*events)

    def _event(self, kind: str, name: str, what: str) -> EventRecord:
        return event(self.project, "", kind, f"{name} {what}", name=name)

    async def _client(self, present: Present, now: float) -> ClientRecord:
        key = f"{self.project}/{present.client}"
        labels = dict(present.labels)
        version = labels.pop("version", "")
        try:
            known = await self._store.get(ClientRecord, self.project, key)
        except NotFoundError:
            known = ClientRecord(key, self.project, present.client, "", connected=False, first_seen=now, last_seen=now)
        return replace(known, combiner=present.combiner, connected=True, last_seen=now, labels=labels, version=version)

    async def _combiner(self, present: Present, now: float) -> CombinerRecord:
        key = f"{self.project}/{present.client}"
        labels = dict(present.labels)
        address = labels.pop("address", "")
        try:
            known = await self._store.get(CombinerRecord, self.project, key)
        except NotFoundError:
            known = CombinerRecord(
                key, self.project, present.client, present.combiner, address,
                connected=False, first_seen=now, last_seen=now,
            )  # fmt: skip
        return replace(known, parent=present.combiner, address=address, connected=True, last_seen=now, labels=labels)

    async def _gone(self, name: str, now: float) -> list[ClientRecord | CombinerRecord]:
        """The rows of a node that has left, unless it is back by now."""
        records: list[ClientRecord | CombinerRecord] = []
        key = f"{self.project}/{name}"
        if name not in self.directory.clients:
            try:
                client = await self._store.get(ClientRecord, self.project, key)
                records.append(replace(client, connected=False, combiner="", last_seen=now))
            except NotFoundError:
                pass
        if name not in self.directory.combiners:
            try:
                combiner = await self._store.get(CombinerRecord, self.project, key)
                records.append(replace(combiner, connected=False, last_seen=now))
            except NotFoundError:
                pass
        return records


def _said(present: Present) -> str:
    """The server that a node's stream ends at, in words."""
    return "the controller" if present.combiner == ROOT else present.combiner
