"""The driver of one phase on the network: it carries out what a `Round` asks for, and tells it what happened."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from hansa.algorithm import Cohort, Partial
from hansa.errors import Reason, UpdateRejectedError
from hansa.messages import Kind, RoundRules, RunSpec
from hansa.network.combiner.hub import Hub
from hansa.network.combiner.phase import LONGEST_METRIC
from hansa.network.combiner.signatures import check_report
from hansa.network.controller.flow import Flow
from hansa.rounds.buffered import Buffered
from hansa.rounds.events import (
    Accepted,
    Cancelled,
    Command,
    Connected,
    Disconnected,
    Due,
    Event,
    Failed,
    Finish,
    Invite,
    Outcome,
    Progressed,
    Rejected,
    Seal,
    Sealed,
    Tick,
    WakeAt,
    Withdraw,
)
from hansa.rounds.round import Round
from hansa.rounds.why import Why
from hansa.wire import frames
from hansa.wire.frames import (
    Blob,
    Counted,
    Evaluated,
    FromNode,
    OpenRound,
    Predicted,
    Presence,
    Progress,
    RoundKey,
    Settled,
    TaskFailed,
    TaskStarted,
)

__all__ = ["Phase", "PhasePlan"]

_log = structlog.get_logger(__name__)

_MOST_EXAMPLES = 2**53
"""Examples of one evaluation report; larger numbers are not exact in a float64 mean."""


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """What is done in a phase, and with whom."""

    key: RoundKey
    spec: RunSpec
    rules: RoundRules
    model: Blob
    package: Blob | None
    choose: Callable[[Sequence[str]], Cohort]
    """The sorted connected clients → who is invited."""
    counted: Mapping[str, Counted]
    """By client: the last committed round that holds its update."""
    before: Sequence[Sequence[str]] = ()
    """Whom a controller that has died had invited to it, one invitation after another."""
    select: Callable[[Sequence[str]], Awaitable[Cohort]] | None = None
    """The same by somebody who takes their time, in place of `choose`; None: nobody."""


@dataclass(slots=True)
class Phase:
    """One training or evaluation phase from its opening to its outcome; of an asynchronous session, one round."""

    plan: PhasePlan
    hub: Hub
    connected: Callable[[], frozenset[str]]
    """Every client that is connected now."""
    may: Callable[[str], bool]
    """Whether a client may be invited at all."""
    on_event: Callable[[Event], None]
    """Told of everything that happens, for the live view."""
    on_invited: Callable[[tuple[str, ...]], None]
    """Told of those who are invited for the first time, before they are."""
    flow: Flow | None = None
    """Of an asynchronous session's training."""
    partials: list[Partial] = field(default_factory=list)
    """What the tree delivered; more than one when the round had to open again."""
    reports: dict[str, Evaluated] = field(default_factory=dict)
    """By client: evaluation results, each signed by its client."""
    predictions: dict[str, Predicted] = field(default_factory=dict)
    """By client: what it predicts."""
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    _round: Round | Buffered | None = None
    _wake_at: float | None = None
    _awaited: bool = False
    """Whether a seal has not been answered yet."""
    _failed: set[str] = field(default_factory=set)
    _selecting: "asyncio.Future[Cohort] | None" = None
    _invited: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """What an asynchronous session hears between two rounds is for the next."""
        if self.flow is not None:
            self._round, self._events = self.flow.machine, self.flow.events

    async def run(self) -> Outcome:
        """Drive the phase to its end."""
        try:
            return await self._driven()
        finally:
            if self._selecting is not None:
                self._selecting.cancel()  # nothing to cancel once it is done

    async def _driven(self) -> Outcome:
        loop = asyncio.get_running_loop()
        plan = self.plan
        machine = self._round = self._round or Round(plan.key.round, plan.key.kind, plan.rules, self._choose)
        if self.flow is not None:
            self._begin(self.flow)
        before = tuple(name for invitation in plan.before for name in invitation)
        here = frozenset(filter(self.may, self.connected()))
        event: Event = Due(loop.time(), here, before, len(plan.before[0]) if plan.before else 0)
        self._invited.update(before)
        while True:
            for command in machine.handle(event):
                outcome = self._carry_out(command)
                if outcome is not None:
                    return outcome
            event = await self._next(loop)
            self.on_event(event)

    def _choose(self, available: Sequence[str]) -> Cohort | None:
        """Who is invited; None while somebody takes their time to say it. What they raise, the phase does."""
        select, asked = self.plan.select, self._selecting
        if select is None:
            return self.plan.choose(available)
        if asked is None:
            asked = self._selecting = asyncio.ensure_future(select(available))
            asked.add_done_callback(lambda _: self._tell(Tick(_now())))
        if not asked.done():
            return None
        cohort = asked.result()
        if set(cohort.invited) <= set(available):
            return cohort
        self._selecting = None  # somebody has gone meanwhile
        return self._choose(available)

    def _begin(self, flow: Flow) -> None:
        """Take in what has come since the round before, and say everywhere that the next is open."""
        came = [flow.events.get_nowait() for _ in range(flow.events.qsize())]
        for event in came:
            if isinstance(event, Cancelled):
                self._tell(event)
            else:
                flow.machine.handle(event)
                self.on_event(event)
        self.hub.receive_from_parent(self._task(self.plan.key.round, ()))

    def takes(self, key: RoundKey, client: str, *, summed: bool = False) -> bool:
        """Whether what is said of a task is about one of this phase. summed: that its update is in a sum."""
        if self.flow is None:
            return key == self.plan.key
        mine = (key.run, key.kind) == (self.plan.key.run, self.plan.key.kind)
        return mine and (summed or self.flow.machine.base_of(client) == key.round)

    def task_of(self, client: str) -> RoundKey:
        """The key of what a client does here."""
        base = self.flow.machine.base_of(client) if self.flow is not None else None
        return self.plan.key if base is None else replace(self.plan.key, round=base)

    def why(self) -> Why | None:
        """What it waits for; None before it runs."""
        return self._round.why(asyncio.get_running_loop().time()) if self._round is not None else None

    def stop(self, cause: str) -> None:
        """End the phase; its outcome is `Abandoned`."""
        self._tell(Cancelled(_now(), cause))

    def presence(self, presence: Presence) -> None:
        """Clients came or went."""
        for name in presence.left:
            self._tell(Disconnected(_now(), name))
        for present in presence.joined:
            if self.may(present.client):
                self._tell(Connected(_now(), present.client))

    def receive(self, frame: FromNode) -> None:
        """A report from below."""
        now = _now()
        match frame:
            case TaskStarted():
                self._tell(Progressed(now, frame.client, frame.key.kind.value, 0, 0))
            case Progress():
                self._tell(Progressed(now, frame.client, frame.activity, frame.done, frame.total))
            case TaskFailed():
                self._failed.add(frame.client)
                self._tell(Failed(now, frame.client, frame.message))
            case Settled(accepted=True):
                base = frame.key.round if self.flow is not None else 0
                self._tell(Accepted(now, frame.client, frame.num_examples, base))
            case Settled():
                self._tell(Rejected(now, frame.client, frame.reason or Reason.MALFORMED, frame.detail))
            case Evaluated() if self.plan.key.kind is Kind.EVALUATE:
                self._take_report(now, frame)
            case Predicted() if self.plan.key.kind is Kind.PREDICT:
                self._take_prediction(now, frame)
            case _:
                pass

    def _take_prediction(self, now: float, frame: Predicted) -> None:
        known = self._round.invited if isinstance(self._round, Round) else frozenset()
        if frame.client not in known or frame.client in self.predictions:
            return
        if not _is_json(frame.document):
            detail = "what it predicts is no JSON that every reader takes: nothing of it is kept"
            self._tell(Rejected(now, frame.client, Reason.MALFORMED, detail))
            return
        self.predictions[frame.client] = frame
        self._tell(Accepted(now, frame.client, 1))

    def engages(self, client: str) -> bool:
        """Whether a client is in it, or may be soon."""
        return self.may(client) and (self._round is None or self._round.engages(client))

    def expects(self, client: str) -> bool:
        """Whether a failure of this client would be news: it is invited, and has not failed before."""
        match self._round:
            case Buffered() as flow:
                return client in flow.at_work
            case Round() as phase:
                return client in phase.invited and client not in self._failed
            case None:
                return False

    def take_partials(self) -> list[Partial]:
        """The sums of a phase that is over, for the caller alone: they are large, and the phase may stay a while."""
        partials, self.partials = self.partials, []
        return partials

    def delivered(self, partial: Partial | None) -> None:
        """The tree has handed in its sum: the one answer to a seal.

        A sum with a client who is counted already, or was never invited, is dropped whole: the round opens again for
        the others in it.
        """
        if not self._awaited:
            _log.error("a sum that nobody awaits was dropped", session=self.plan.key.run, round=self.plan.key.round)
            return
        self._awaited = False
        counted = {name for part in self.partials for name in part.contributions}
        if partial is not None:
            names = partial.contributions.keys()
            odd = sorted((names & counted) | self._strangers(names))
            if odd:
                _log.error(
                    "a sum was dropped",
                    session=self.plan.key.run,
                    round=self.plan.key.round,
                    counted_or_uninvited=odd[:3],
                )
            else:
                self.partials.append(partial)
                counted |= names
        bases = {name: each.base for part in self.partials for name, each in part.contributions.items()}
        self._tell(Sealed(_now(), frozenset(counted), bases if self.flow is not None else {}))

    def _strangers(self, names: Collection[str]) -> frozenset[str]:
        """Those who were never invited; in an asynchronous session nobody, whatever has become of the task since.

        A server takes the updates of tasks that it was told of, and of no other.
        """
        return frozenset(names) - self._round.invited if isinstance(self._round, Round) else frozenset()

    def _take_report(self, now: float, frame: Evaluated) -> None:
        known = self._round.invited if isinstance(self._round, Round) else frozenset()
        if frame.client not in known or frame.client in self.reports:
            return
        try:
            check_report(frame, self.plan.spec.project, self.plan.model.digest, self.hub.keys_of)
        except UpdateRejectedError as error:
            self._tell(Rejected(now, frame.client, error.reason, error.detail))
            return
        longest = max(frame.metrics, key=len, default="")
        if not 1 <= frame.num_examples <= _MOST_EXAMPLES:
            detail = f"{frame.client} evaluated on {frame.num_examples} examples; report at least 1"
            self._tell(Rejected(now, frame.client, Reason.WEIGHT, detail))
        elif len(longest) > LONGEST_METRIC:
            detail = f"the metric {longest[:20]!r}… of {frame.client} has a name of {len(longest)} characters"
            self._tell(Rejected(now, frame.client, Reason.TOO_LARGE, detail))
        else:
            self.reports[frame.client] = frame
            self._tell(Accepted(now, frame.client, frame.num_examples))

    def _carry_out(self, command: Command) -> Outcome | None:
        plan = self.plan
        match command:
            case Invite():
                new = tuple(name for name in command.clients if name not in self._invited)
                if new and self.task_of(new[0]) == plan.key:
                    self._invited.update(new)
                    self.on_invited(new)
                self.hub.receive_from_parent(self._task(self.task_of(command.clients[0]).round, command.clients))
            case Withdraw():
                key = self.task_of(command.client)
                self.hub.receive_from_parent(frames.Withdraw(key, command.client, command.why))
            case Seal():
                if plan.key.kind is Kind.TRAIN:
                    self._awaited = True
                    self.hub.receive_from_parent(frames.Seal(plan.key))
                else:
                    self._tell(Sealed(_now(), frozenset(self.reports) | frozenset(self.predictions)))
            case WakeAt():
                self._wake_at = command.at
            case Finish():
                return command.outcome
        return None

    def _task(self, base: int, clients: tuple[str, ...]) -> OpenRound:
        """An invitation of clients that have the model of one round; of nobody: an asynchronous round begins."""
        plan, flow = self.plan, self.flow
        counted = tuple(plan.counted[name] for name in clients if name in plan.counted)
        if flow is None:
            return OpenRound(plan.key, plan.spec, plan.model, clients, plan.package, counted)
        number, key = plan.key.round, replace(plan.key, round=base)
        current = plan.model if base != number else None
        return OpenRound(key, plan.spec, flow.models[base], clients, plan.package, counted, number, current)

    async def _next(self, loop: asyncio.AbstractEventLoop) -> Event:
        try:
            async with asyncio.timeout_at(self._wake_at):
                return await self._events.get()
        except TimeoutError:
            self._wake_at = None
            return Tick(loop.time())

    def _tell(self, event: Event) -> None:
        self._events.put_nowait(event)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_json(document: bytes) -> bool:
    """Whether it can be told again as it is: in UTF-8, not too deep, without NaN, infinity or half a character."""
    try:
        json.dumps(json.loads(document), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return b"\0" not in document
