"""A data owner's agent: it keeps the connection, and has tasks done by a worker process.

What was learned is kept until the round that it belongs to is committed, or has refused it.
"""

import asyncio
import math
import shutil
from collections.abc import Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

import hansa
from hansa.errors import (
    HansaError,
    NotFoundError,
    PermissionDeniedError,
    StorageError,
    UserCodeError,
)
from hansa.evidence.receipts import RECEIPTS, Receipt, keep_receipt
from hansa.messages import ClientInfo, Kind, Sample
from hansa.network.client.code import Code
from hansa.network.client.library import Library
from hansa.network.client.models import Fetch, Models
from hansa.network.client.outbox import Outbox
from hansa.network.client.signing import signed_offer, signed_report
from hansa.network.client.site import Site
from hansa.network.client.tasks import OpenWorkshop, TaskRunner
from hansa.network.client.telemetry import tell_of_machine
from hansa.network.client.telling import Telling
from hansa.network.client.uploads import Uploads
from hansa.network.client.workshop import SCRATCH, Workshop
from hansa.network.entrance import Entrance
from hansa.network.jobs import Jobs
from hansa.network.link import Link
from hansa.rounds.seats import ABOUT_THE_ROUND
from hansa.statements import round_statement
from hansa.wire import frames
from hansa.wire.frames import (
    Admission,
    Closed,
    Evaluated,
    FromNode,
    Hello,
    Offer,
    OpenRound,
    Progress,
    Role,
    RoundKey,
    Samples,
    TaskFailed,
    ToNode,
    Verdict,
    Welcome,
    Withdraw,
)
from hansa.wire.node_key import holds
from hansa.wire.tls import WORLD, Trust
from hansa.wire.transport import GRPC, Transport

__all__ = ["Agent"]

_log = structlog.get_logger(__name__)


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
        workshop: OpenWorkshop = Workshop,
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
        self._outbox = Outbox(work / "outbox", self._objects)
        """Trained updates until the round is committed or has refused them."""
        self._site = site if site is not None else Site(work)
        self._library = Library(work, self._link.download)
        self._models = Models(work, self._objects, self._link, fetch)
        self._runner = TaskRunner(
            client,
            work,
            own=self._own,
            objects=self._objects,
            site=self._site,
            library=self._library,
            models=self._models,
            outbox=self._outbox,
            entrance=entrance,
            open_workshop=workshop,
        )
        self._tasks: dict[RoundKey, asyncio.Task[bool]] = {}
        self._tellings: dict[RoundKey, Telling] = {}
        """What each of these has to tell."""
        self._repeated: dict[RoundKey, OpenRound] = {}
        """What was given again while it was in hand."""
        self._jobs = Jobs()
        self._uploads = Uploads(
            client.name, self._link, self._outbox, self._objects, start=self._start, offer=self._hand_in
        )

    async def run(self) -> None:
        """Serve until the network dismisses this client; raises what trying again cannot mend."""
        await asyncio.to_thread(self._take_up)
        if self._own is not None:
            self._start(self._runner.prepare(self._own))
        self._start(tell_of_machine(self.client.name, self._link, self._site, self._work))
        try:
            await self._link.run()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """End every task and worker process."""
        for key in list(self._tasks):
            self._cancel(key)
        await self._jobs.aclose()
        await self._runner.aclose()

    def _take_up(self) -> None:
        """What an earlier process has learned, without what it had half downloaded."""
        self._outbox.open()
        self._library.open()
        for scratch in self._work.glob(f"{SCRATCH}*"):
            shutil.rmtree(scratch, ignore_errors=True)
        for part in self._work.glob("*.part"):
            part.unlink(missing_ok=True)

    def relabel(self, labels: Mapping[str, str]) -> None:
        """Have other labels from now on, in the place of all that it had."""
        self._link.relabel(labels)

    def report(self, values: Sequence[Sample]) -> None:
        """What the owner's own software tells of its machine, while there is a connection."""
        if self._link.connected:
            self._link.send(Samples(self.client.name, tuple(values)))

    # ── the link ─────────────────────────────────────────────────────────────────────────────────────────────────

    def attached(self, welcome: Welcome) -> None:
        """Connected (again)."""
        _log.info("connected", client=self.client.name, to=welcome.node)

    def detached(self, why: str) -> None:
        """Work goes on; its result is offered after the reconnect, when the round invites anew."""
        self._uploads.interrupt()
        _log.info("connection lost", client=self.client.name, why=why)

    def receive(self, frame: ToNode) -> None:
        """A frame from the server."""
        match frame:
            case OpenRound():
                self._open(frame)
            case Withdraw():
                self._withdraw(frame)
            case Admission():
                self._uploads.admitted(frame)
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
            telling = self._tellings[key] = Telling(opened, self.client.name, self._site, self._link)
            task = self._tasks[key] = asyncio.create_task(self._perform(opened, telling))
            task.add_done_callback(lambda done: self._performed(key, done))

    def _performed(self, key: RoundKey, task: "asyncio.Task[bool]") -> None:
        if self._tasks.get(key) is not task:  # it was ended, and perhaps given again
            repeated = None
        else:
            del self._tasks[key], self._tellings[key]
            repeated = self._repeated.pop(key, None)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            _log.error(
                "a task failed in hansa itself",
                client=self.client.name,
                session=key.run,
                round=key.round,
                exc_info=error,
            )
            self._link.send(TaskFailed(key, self.client.name, f"{type(error).__name__}: {error}"))
        elif repeated is not None and not task.result():
            self._open(repeated)

    def _cancel(self, key: RoundKey) -> None:
        """End a task; the same one may be given again at once, and then begins anew."""
        task = self._tasks.pop(key, None)
        self._tellings.pop(key, None)
        self._repeated.pop(key, None)
        if task is not None:
            task.cancel()
            self._jobs.adopt(task)

    def _withdraw(self, frame: Withdraw) -> None:
        """Stop, and say so: whoever stood still for a while and is back may have its place again, if it is free.

        Where only the disk is waited for, it goes on: what was learned is not learned again, and counts if it comes.
        """
        _log.warning(
            "task withdrawn", client=self.client.name, session=frame.key.run, round=frame.key.round, why=frame.why
        )
        telling = self._tellings.get(frame.key)
        if telling is None or not telling.code_has_ended:
            self._cancel(frame.key)
        self._link.send(Progress(frame.key, self.client.name, "idle", 0, 0))

    def _judged(self, verdict: Verdict) -> None:
        if not verdict.accepted:
            reason = verdict.reason.value if verdict.reason is not None else ""
            _log.warning(
                "update rejected",
                client=self.client.name,
                session=verdict.key.run,
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
            _log.warning(
                "a receipt is not signed, and not kept",
                client=self.client.name,
                session=offer.key.run,
                round=offer.key.round,
            )
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
            _log.warning(
                "a receipt cannot be kept",
                client=self.client.name,
                session=offer.key.run,
                round=offer.key.round,
                why=str(error),
            )

    # ── a task ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _perform(self, opened: OpenRound, telling: Telling) -> bool:
        """Do a task, and hand in the result or the failure; False when it was dropped."""
        key, name = opened.key, self.client.name
        answer: FromNode | None
        try:
            with self._models.needed(opened.model):
                does = self._runner.attend if key.kind is Kind.PROGRAM else self._runner.answer
                answer = await does(opened, telling)
        except PermissionDeniedError as error:
            answer = TaskFailed(key, name, f"{name} refuses this session: {error}")
            _log.warning("session refused", client=name, session=key.run, round=key.round, why=str(error))
        except UserCodeError as error:
            _log.error("the app failed", client=name, session=key.run, round=key.round, error=str(error))
            answer = await telling.failed(error)
        except NotFoundError as error:  # the round is closed, or its server has not opened it again yet
            _log.info("task dropped", client=name, session=key.run, round=key.round, why=str(error))
            return False
        except (HansaError, OSError) as error:
            answer = TaskFailed(key, name, f"{type(error).__name__}: {error}")
        if isinstance(answer, Evaluated):
            answer = signed_report(answer, opened.model.digest, self._identity)
        if answer is not None:
            self._hand_in(answer)
        return True

    def _hand_in(self, answer: FromNode) -> None:
        self._link.send(signed_offer(answer, self._identity) if isinstance(answer, Offer) else answer)

    def _start(self, job: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        def failed(error: BaseException) -> None:
            _log.error("a job of the client failed", client=self.client.name, exc_info=error)

        return self._jobs.start(job, failed)
