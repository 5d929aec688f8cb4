"""A data owner's agent: it keeps the connection, and has tasks done by a worker process.

What was learned is kept until the round that it belongs to is committed, or has refused it.
"""

import asyncio
import math
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import structlog

import hansa
from hansa.errors import (
    ConflictError,
    ConnectionFailedError,
    HansaError,
    NotFoundError,
    PermissionDeniedError,
    StorageError,
    UserCodeError,
    WireError,
)
from hansa.evidence.receipts import RECEIPTS, Receipt, keep_receipt
from hansa.messages import ClientInfo, Kind, Sample
from hansa.network.client.code import Code
from hansa.network.client.correspondence import Correspondence, Relay
from hansa.network.client.library import Library
from hansa.network.client.memory import forget_diary
from hansa.network.client.outbox import Outbox, update_file
from hansa.network.client.results import RESULTS, keep_result
from hansa.network.client.signing import signed_offer, signed_report
from hansa.network.client.site import Outgoing, Site
from hansa.network.client.telemetry import MEASURED, Machine
from hansa.network.client.workshop import SCRATCH, Workshop
from hansa.network.entrance import Entrance
from hansa.network.files import pieces
from hansa.network.jobs import Jobs
from hansa.network.link import Link
from hansa.network.patience import patiently
from hansa.network.terminal import in_a_line
from hansa.rounds.seats import ABOUT_THE_ROUND
from hansa.statements import round_statement
from hansa.wire import frames, packing
from hansa.wire.frames import (
    Admission,
    Answer,
    Blob,
    Closed,
    Evaluated,
    FromNode,
    Hello,
    LogLine,
    Offer,
    OpenRound,
    Progress,
    Role,
    RoundKey,
    Samples,
    TaskFailed,
    TaskStarted,
    ToNode,
    Verdict,
    Welcome,
    Withdraw,
)
from hansa.wire.node_key import holds
from hansa.wire.tls import WORLD, Trust
from hansa.wire.transport import GRPC, Transport

__all__ = ["Agent", "Fetch", "Workplace"]

T = TypeVar("T")

Fetch: TypeAlias = Callable[[Blob, Path], Awaitable[bool]]
"""Puts an object into a file that is not there yet, or is whole; False: it has it not."""

_log = structlog.get_logger(__name__)

_MODELS_KEPT = 3
"""Downloaded models that stay: the one that is evaluated is the one that is trained from next."""

_NOTICEABLE = 0.2
"""Seconds after which a task is worth a report that it has begun: most small ones are over by then."""

_DAY = 86_400.0
"""Seconds between two lines of the ledger about what this machine tells of itself."""

_BYTES_OF_A_NUMBER = 8

_PROGRESS_STEP = 16 << 20
"""Bytes downloaded between two progress reports."""


class Workplace(Protocol):
    """Where an agent has its tasks done: by a worker process, unless whoever makes the agent says otherwise."""

    async def start(self) -> None:
        """Be ready for a task."""

    async def work(
        self,
        opened: OpenRound,
        on_frame: Callable[[FromNode], None],
        correspondence: Correspondence | None = None,
    ) -> Answer:
        """Do one task; see `Workshop.work`."""

    async def aclose(self) -> None:
        """No task comes any more."""


class Agent:
    """One client on the network."""

    def __init__(
        self,
        client: ClientInfo,
        *,
        join: str,
        token: str,
        work: Path,
        app: Path | None = None,
        preferred: str = "",
        labels: Mapping[str, str] | None = None,
        trust: Trust = WORLD,
        site: Site | None = None,
        transport: Transport = GRPC,
        key_age: float = math.inf,
        workshop: Callable[[Code, ClientInfo, Path, Callable[[str], None]], Workplace] = Workshop,
        fetch: Fetch | None = None,
    ) -> None:
        """app: the owner's own code, None to run what sessions bring; work: a folder for models and updates.

        join, token, trust, key_age: see `Entrance`; site: the owner's rules; by default none; fetch: of an agent in a
        server's own process, for models that need no way over the network.
        """
        self.client = client
        entrance = Entrance(join, token, work, trust, transport, key_age=key_age)
        self._entrance = entrance
        self._identity = entrance.identity
        hello = Hello(Role.CLIENT, entrance.identity.instance, hansa.__version__, labels=dict(labels or {}))
        self._link = Link(self, entrance=entrance, hello=hello, preferred=preferred)
        self._own = Code(app) if app is not None else None
        self._work = work
        self._objects = work / "objects"
        self._workshops: dict[Code, Workplace] = {}
        self._open_workshop = workshop
        self._fetch = fetch
        self._turns: dict[Code, asyncio.Lock] = {}
        self._tasks: dict[RoundKey, asyncio.Task[bool]] = {}
        self._repeated: dict[RoundKey, OpenRound] = {}
        """What was given again while it was in hand."""
        self._outbox = Outbox(work / "outbox", self._objects)
        """Trained updates until the round is committed or has refused them."""
        self._site = site if site is not None else Site(work)
        self._library = Library(work, self._link.download)
        self._models: list[str] = []
        self._needed: Counter[str] = Counter()
        """Models of tasks that are in hand, or wait for their turn."""
        self._uploads: dict[RoundKey, asyncio.Task[None]] = {}
        """One for each phase: the newest admission says where it goes on."""
        self._jobs = Jobs()
        self._at_work: RoundKey | None = None
        self._printed_bytes = 0
        """Of the task in hand, told to its session."""
        self._logged: dict[RoundKey, Counter[str]] = {}
        """By task: how many numbers of each name were told to its session."""

    async def run(self) -> None:
        """Serve until the network dismisses this client; raises what trying again cannot mend."""
        await asyncio.to_thread(self._take_up)
        if self._own is not None:
            self._start(self._workshop(self._own).start())
        if self._site.policy.outbound.telemetry is not None:
            self._start(self._report(self._site.policy.outbound.telemetry))
        try:
            await self._link.run()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """End every task and worker process."""
        for key in list(self._tasks):
            self._cancel(key)
        await self._jobs.aclose()
        for workshop in self._workshops.values():
            await workshop.aclose()

    def _take_up(self) -> None:
        """What an earlier process has learned, without what it had half downloaded."""
        self._outbox.open()
        self._library.open()
        for scratch in self._work.glob(f"{SCRATCH}*"):
            shutil.rmtree(scratch, ignore_errors=True)
        for part in self._work.glob("*.part"):
            part.unlink(missing_ok=True)

    async def _report(self, every: float) -> None:
        """Tell how busy this machine is. every: seconds."""
        machine, noted_until = Machine(self._work), 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(every)
            if not self._link.connected:
                continue
            if loop.time() >= noted_until:
                size = _BYTES_OF_A_NUMBER * len(MEASURED) * math.ceil(_DAY / every)
                await patiently(
                    lambda: asyncio.to_thread(self._site.reports, MEASURED, size),  # noqa: B023 - awaited
                    who=f"client {self.client.name}",
                )
                noted_until = loop.time() + _DAY
            self._link.send(Samples(self.client.name, await asyncio.to_thread(machine.measure)))

    # ── the link ─────────────────────────────────────────────────────────────────────────────────────────────────

    def attached(self, welcome: Welcome) -> None:
        """Connected (again)."""
        _log.info("connected", client=self.client.name, to=welcome.node)

    def detached(self, why: str) -> None:
        """Work goes on; its result is offered after the reconnect, when the round invites anew."""
        for upload in self._uploads.values():
            upload.cancel()
        _log.info("connection lost", client=self.client.name, why=why)

    def receive(self, frame: ToNode) -> None:
        """A frame from the server."""
        match frame:
            case OpenRound():
                self._open(frame)
            case Withdraw():
                self._withdraw(frame)
            case Admission():
                self._admitted(frame)
            case Verdict():
                self._judged(frame)
            case Closed():
                self._close(frame)
            case _:
                pass

    def _open(self, opened: OpenRound) -> None:
        """A task; one that is in hand or done is not begun again, unless the one in hand comes to nothing."""
        key = opened.key
        if key.kind is Kind.TRAIN:
            self._outbox.forget_before(key)
            for older in [each for each in self._tasks if (each.run, each.kind) == (key.run, key.kind)]:
                if older.round < key.round:
                    self._cancel(older)
        offer = self._outbox.get(key)
        if offer is not None:
            self._hand_in(offer)
        elif key in self._tasks:
            self._repeated[key] = opened
        else:
            task = self._tasks[key] = asyncio.create_task(self._perform(opened))
            task.add_done_callback(lambda done: self._performed(key, done))

    def _performed(self, key: RoundKey, task: "asyncio.Task[bool]") -> None:
        if self._tasks.get(key) is not task:  # it was ended, and perhaps given again
            repeated = None
        else:
            del self._tasks[key]
            repeated = self._repeated.pop(key, None)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            _log.error("a task failed in hansa itself", client=self.client.name, round=key.round, exc_info=error)
            self._link.send(TaskFailed(key, self.client.name, f"{type(error).__name__}: {error}"))
        elif repeated is not None and not task.result():
            self._open(repeated)

    def _cancel(self, key: RoundKey) -> None:
        """End a task; the same one may be given again at once, and then begins anew."""
        task = self._tasks.pop(key, None)
        self._repeated.pop(key, None)
        if task is not None:
            task.cancel()
            self._jobs.adopt(task)

    def _withdraw(self, frame: Withdraw) -> None:
        """Stop, and say so: whoever stood still for a while and is back may have its place again, if it is free."""
        _log.warning("task withdrawn", client=self.client.name, round=frame.key.round, why=frame.why)
        self._cancel(frame.key)
        self._link.send(Progress(frame.key, self.client.name, "idle", 0, 0))

    def _judged(self, verdict: Verdict) -> None:
        if not verdict.accepted:
            reason = verdict.reason.value if verdict.reason is not None else ""
            _log.warning(
                "update rejected",
                client=self.client.name,
                round=verdict.key.round,
                reason=reason,
                detail=verdict.detail,
            )
            if verdict.reason not in ABOUT_THE_ROUND:  # else it is offered when the task is given again
                self._outbox.forget(verdict.key)

    def _close(self, closed: Closed) -> None:
        self._cancel(closed.key)
        offer = self._outbox.get(closed.key)
        if offer is not None and closed.receipt is not None and self.client.name in closed.committed:
            self._keep_receipt(offer, closed.receipt)
        self._outbox.forget(closed.key)

    def _keep_receipt(self, offer: Offer, told: frames.Receipt) -> None:
        """One that the server has signed, whoever it is: whose key that is, people can compare."""
        signed, (part,) = told.signature, offer.contributions
        if not holds(signed, round_statement(told.link)):
            _log.warning("a receipt is not signed, and not kept", client=self.client.name, round=offer.key.round)
            return
        receipt = Receipt(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            session=offer.key.run,
            round=told.round or offer.key.round,
            client=part.client,
            num_examples=part.num_examples,
            update=offer.blob.digest,
            link=told.link,
            signer=signed.signer,
            signature=signed.value,
        )
        try:
            keep_receipt(self._work / RECEIPTS, receipt)
        except StorageError as error:
            _log.warning("a receipt cannot be kept", client=self.client.name, round=offer.key.round, why=str(error))

    # ── a task ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _perform(self, opened: OpenRound) -> bool:
        """Do a task, and hand in the result or the failure; False when it was dropped."""
        key, name = opened.key, self.client.name
        self._needed[opened.model.digest] += 1
        answer: FromNode | None
        try:
            answer = await (self._attend(opened) if key.kind is Kind.PROGRAM else self._answer(opened))
        except PermissionDeniedError as error:
            answer = TaskFailed(key, name, f"{name} refuses this session: {error}")
            _log.warning("session refused", client=name, session=key.run, round=key.round, why=str(error))
        except UserCodeError as error:
            _log.error("the app failed", client=name, round=key.round, error=str(error))
            said = self._site.words(error)
            answer = TaskFailed(key, name, str(said), said.traceback)
            await self._noted(opened, "failure", len(str(said)) + len(said.traceback))
        except NotFoundError as error:  # the round is closed, or its server has not opened it again yet
            _log.info("task dropped", client=name, round=key.round, why=str(error))
            return False
        except (HansaError, OSError) as error:
            answer = TaskFailed(key, name, f"{type(error).__name__}: {error}")
        finally:
            self._needed -= Counter((opened.model.digest,))
        if isinstance(answer, Evaluated):
            answer = signed_report(answer, opened.model.digest, self._identity)
        if answer is not None:
            self._hand_in(answer)
        return True

    def _hand_in(self, answer: FromNode) -> None:
        self._link.send(signed_offer(answer, self._identity) if isinstance(answer, Offer) else answer)

    async def _answer(self, opened: OpenRound) -> Answer:
        """What is handed in: fetch what the task needs, have it done as far as the site lets it, and keep it."""
        code = await self._approved(opened)
        await self._patiently(opened, lambda: self._model_of(opened))
        async with self._turn(code, opened):
            done = await self._worked(opened, code)
        if isinstance(done, Offer) and self._site.measures(opened.spec):
            await asyncio.to_thread(self._measured, opened, done)
        answer = await self._outbound(opened, done)
        if not isinstance(answer, Offer):
            return answer
        offer = replace(answer, base=opened.model.digest)
        await self._patiently(opened, lambda: self._kept(offer))
        return offer

    async def _approved(self, opened: OpenRound) -> Code:
        """The code of a task, which may run here."""
        self._site.check_run(opened)
        async with self._meanwhile(opened, "prepare"):
            code = await self._patiently(opened, lambda: self._code_of(opened))
        async with self._meanwhile(opened, "approval"):
            await self._patiently(opened, lambda: self._site.check_code(opened, code, lambda: self._asked(opened)))
        return code

    async def _outbound(self, opened: OpenRound, done: Answer) -> Answer:
        """What may leave of an answer, once it is written down."""
        answer, kept_back = self._site.outbound(done)
        if kept_back:
            line = f"this site keeps back the metrics {', '.join(sorted(kept_back))}"
            self._link.send(LogLine(opened.key, self.client.name, line, "warning"))
        await self._patiently(opened, lambda: asyncio.to_thread(self._site.leaves, opened, answer))
        return answer

    # ── a program ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _attend(self, opened: OpenRound) -> None:
        """Be a party, from the beginning: what was said before is there, and nobody waits for it."""
        code, relay = await self._approved(opened), Relay(self._entrance)
        try:
            while True:
                try:
                    return await self._converse(opened, code, relay)
                except ConflictError as error:
                    _log.warning("begins anew", client=self.client.name, session=opened.key.run, why=str(error))
        finally:
            await relay.aclose()

    async def _converse(self, opened: OpenRound, code: Code, relay: Relay) -> None:
        """One run of the program. A worker process of its own: a program waits for others, and nobody waits for it."""
        key = opened.key
        outgoing, printed = Outgoing(self._site, opened), Counter[str]()
        leaving = lambda size: self._patiently(opened, lambda: outgoing.leave(size))  # noqa: E731 - as long as its name
        correspondence = Correspondence(relay, opened, self._objects, leaving)
        workshop = self._open_workshop(code, self.client, self._objects, partial(self._printed_by, key, printed))
        result = update_file(self._objects, key)
        try:
            try:
                done = await workshop.work(opened, self._pass_on, correspondence)
            finally:
                await workshop.aclose()
            await self._patiently(
                opened, lambda: asyncio.to_thread(keep_result, result, self._work / RESULTS / key.run)
            )
            answer = await self._outbound(opened, done)
            await correspondence.end(answer.metrics if isinstance(answer, Evaluated) else {})
            await asyncio.to_thread(forget_diary, self._objects.with_name("memory"), key.run)
        finally:
            await correspondence.aclose()
            result.unlink(missing_ok=True)
            if printed:
                await self._noted(opened, "prints", printed.total())
            await self._note_logged(opened)

    def _measured(self, opened: OpenRound, offer: Offer) -> None:
        """Raise `PermissionDeniedError` for an update that is longer than the site lets leave.

        What is measured is a copy that its code cannot change, and the server takes no bytes of another digest.
        """
        model, update = opened.model, offer.blob
        content = update.inline or b"".join(pieces(update_file(self._objects, offer.key), update.size))
        if packing.digest([content]) != update.digest:
            raise UserCodeError("the app's process has changed its update after it was written: it was ended")
        self._site.check_norm(content, model.inline or b"".join(pieces(self._objects / model.digest, model.size)))

    async def _worked(self, opened: OpenRound, code: Code) -> Answer:
        self._at_work, self._printed_bytes = opened.key, 0
        started = asyncio.get_running_loop().call_later(
            _NOTICEABLE, self._link.send, TaskStarted(opened.key, self.client.name)
        )
        try:
            return await self._workshop(code).work(opened, self._pass_on)
        finally:
            started.cancel()
            if self._printed_bytes:
                await self._noted(opened, "prints", self._printed_bytes)
            await self._note_logged(opened)

    async def _note_logged(self, opened: OpenRound) -> None:
        told = self._logged.pop(opened.key, None)
        if told:
            await self._noted(opened, "log", _BYTES_OF_A_NUMBER * told.total(), frozenset(told))

    def relabel(self, labels: Mapping[str, str]) -> None:
        """Have other labels from now on, in the place of all that it had."""
        self._link.relabel(labels)

    def report(self, values: Sequence[Sample]) -> None:
        """What the owner's own software tells of its machine, while there is a connection."""
        if self._link.connected:
            self._link.send(Samples(self.client.name, tuple(values)))

    def _log(self, frame: Samples, key: RoundKey) -> None:
        """Numbers that code has logged: those that the site lets leave."""
        allowed, kept_back = self._site.logged(frame)
        told = self._logged.get(key)
        if told is None:
            told = self._logged[key] = Counter()
            if kept_back:
                line = f"this site keeps back the metrics {', '.join(sorted(kept_back))}"
                self._link.send(LogLine(key, self.client.name, line, "warning"))
        told.update(sample.name for sample in allowed.values)
        if allowed.values:
            self._link.send(allowed)

    def _pass_on(self, frame: FromNode) -> None:
        """What a worker says on the way: no words of its code where the site keeps them."""
        if isinstance(frame, Samples):
            if frame.key is not None:
                self._log(frame, frame.key)
        elif self._site.policy.outbound.prints:
            self._link.send(frame)
        elif isinstance(frame, Progress):
            self._link.send(replace(frame, activity=frame.key.kind.value))

    async def _noted(self, opened: OpenRound, kind: str, size: int, metrics: Collection[str] = ()) -> None:
        """Written down of what was told in words; raises nothing that would hide what is told."""
        try:
            await asyncio.to_thread(self._site.says, opened, kind, size, metrics)
        except StorageError as error:
            _log.error("what has left cannot be written down", client=self.client.name, why=str(error))

    def _asked(self, opened: OpenRound) -> None:
        """A person must approve the session first: said here, and to the session."""
        session = opened.key.run
        _log.warning("a session waits for approval", client=self.client.name, approve=f"hansa client approve {session}")
        line = "a person at this site must approve this session first; it waits"
        self._link.send(LogLine(opened.key, self.client.name, line, "warning"))
        self._link.send(Progress(opened.key, self.client.name, "approval", 0, 0))

    async def _kept(self, offer: Offer) -> None:
        self._outbox.keep(offer)

    async def _patiently(self, opened: OpenRound, ask: Callable[[], Awaitable[T]]) -> T:
        """As soon as this client's disk does its part: a task is not failed by one that is full for a while."""
        said = ""

        def tell(away: str) -> None:
            nonlocal said
            if away and away != said:
                self._link.send(LogLine(opened.key, self.client.name, away, "warning"))
            if away:
                self._link.send(Progress(opened.key, self.client.name, "disk", 0, 0))
            said = away

        return await patiently(ask, who=f"client {self.client.name}", tell=tell)

    @asynccontextmanager
    async def _turn(self, code: Code, opened: OpenRound) -> AsyncIterator[None]:
        """A worker does one task at a time, behind those of other sessions."""
        turn = self._turns.setdefault(code, asyncio.Lock())
        async with self._meanwhile(opened, "queue"):
            await turn.acquire()
        try:
            yield
        finally:
            turn.release()

    @asynccontextmanager
    async def _meanwhile(self, opened: OpenRound, activity: str) -> AsyncIterator[None]:
        """Whatever takes its time here is said, and keeps the lease."""
        saying = asyncio.create_task(self._say(opened, activity))
        try:
            yield
        finally:
            saying.cancel()

    async def _say(self, opened: OpenRound, activity: str) -> None:
        while True:
            await asyncio.sleep(opened.spec.rules.lease / 3)
            self._link.send(Progress(opened.key, self.client.name, activity, 0, 0))

    async def _code_of(self, opened: OpenRound) -> Code:
        """The owner's own app, or the session's package."""
        if self._own is not None:
            return self._own
        if opened.package is None:
            raise UserCodeError(
                f"{self.client.name} was started without an app, and the session brings none: start the client with "
                "`hansa client start app.py`, or the session with a package"
            )
        return await self._library.find(opened.package)

    async def _model_of(self, opened: OpenRound) -> None:
        """Have the broadcast model in the folder of objects, unless it came inline."""
        blob = opened.model
        if blob.inline or not blob.size:
            return
        reported = 0

        def on_progress(have: int) -> None:
            nonlocal reported
            if have - reported >= _PROGRESS_STEP or have == blob.size:
                reported = have
                self._link.send(Progress(opened.key, self.client.name, "download", have, blob.size))

        target = self._objects / blob.digest
        if self._fetch is None or not await self._fetch(blob, target):
            await self._link.download(blob, target, on_progress, aside=self._work)
        if blob.digest in self._models:
            self._models.remove(blob.digest)
        self._models.append(blob.digest)
        for digest in self._models[:-_MODELS_KEPT]:
            if not self._needed[digest]:
                (self._objects / digest).unlink(missing_ok=True)
                self._models.remove(digest)

    def _admitted(self, admission: Admission) -> None:
        """The server has room, and says from which byte; an upload that is under way would send the same twice."""
        key = admission.key
        if key in self._uploads:
            self._uploads[key].cancel()
        upload = self._uploads[key] = self._start(self._upload(admission))

        def forget(_: object) -> None:
            if self._uploads.get(key) is upload:
                del self._uploads[key]

        upload.add_done_callback(forget)

    async def _upload(self, admission: Admission) -> None:
        """Send an update that the server has room for now."""
        offer = self._outbox.get(admission.key)
        if offer is None:
            return
        try:
            data = await asyncio.to_thread(pieces, update_file(self._objects, offer.key), offer.blob.size)
        except FileNotFoundError:
            if self._outbox.get(admission.key) is offer:
                raise
            return  # the round closed meanwhile
        try:
            await self._link.upload(admission.upload, data, admission.offset)
        except (ConnectionFailedError, NotFoundError, WireError) as error:
            _log.info("upload interrupted", client=self.client.name, round=admission.key.round, why=str(error))
            if self._link.connected and self._outbox.get(admission.key) is offer:
                self._hand_in(offer)

    def _workshop(self, code: Code) -> Workplace:
        if code not in self._workshops:
            self._workshops[code] = self._open_workshop(code, self.client, self._objects, self._printed)
        return self._workshops[code]

    def _printed(self, line: str) -> None:
        """A line that user code printed: shown here, and told to the session."""
        printed: Counter[str] = Counter()
        self._printed_by(self._at_work, printed, line)
        self._printed_bytes += printed.total()

    def _printed_by(self, key: RoundKey | None, printed: Counter[str], line: str) -> None:
        """The same of a task. printed: counts what is told."""
        print(f"[{self.client.name}] {in_a_line(line)}", flush=True)  # noqa: T201 - the owner's terminal shows the owner's code
        if key is not None and self._site.policy.outbound.prints:
            printed["bytes"] += len(line)
            self._link.send(LogLine(key, self.client.name, line))

    def _start(self, job: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        def failed(error: BaseException) -> None:
            _log.error("a job of the client failed", client=self.client.name, exc_info=error)

        return self._jobs.start(job, failed)
