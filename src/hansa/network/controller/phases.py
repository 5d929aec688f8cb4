"""The driver of one phase on the network: it carries out what a `Round` asks for, and tells it what happened."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from hansa.algorithm import Cohort, Partial
from hansa.errors import Reason, UpdateRejectedError
from hansa.messages import Kind, RoundRules, RunSpec
from hansa.network.combiner.hub import Hub
from hansa.network.combiner.phase import LONGEST_METRIC
from hansa.network.combiner.signatures import check_report
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
    counted: Mapping[str, Counted]
    """By client: the last committed round that holds its update."""
    before: Sequence[Sequence[str]] = ()
    """Whom a controller that has died had invited to it, one invitation after another."""


@dataclass(slots=True)
class Phase:
    """One training or evaluation phase from its opening to its outcome."""

    plan: PhasePlan
    hub: Hub
    connected: Callable[[], frozenset[str]]
    """Every client that is connected now."""
    on_event: Callable[[Event], None]
    """Told of everything that happens, for the live view."""
    on_invited: Callable[[tuple[str, ...]], None]
    """Told of those who are invited for the first time, before they are."""
    partials: list[Partial] = field(default_factory=list)
    """What the tree delivered; more than one when the round had to open again."""
    reports: dict[str, Evaluated] = field(default_factory=dict)
    """By client: evaluation results, each signed by its client."""
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    _round: Round | None = None
    _wake_at: float | None = None
    _awaited: bool = False
    """Whether a seal has not been answered yet."""
    _failed: set[str] = field(default_factory=set)
    _invited: set[str] = field(default_factory=set)

    async def run(self) -> Outcome:
        """Drive the phase to its end."""
        loop = asyncio.get_running_loop()
        plan = self.plan
        self._round = Round(plan.key.round, plan.key.kind, plan.rules, plan.choose)
        before = tuple(name for invitation in plan.before for name in invitation)
        event: Event = Due(loop.time(), self.connected(), before, len(plan.before[0]) if plan.before else 0)
        self._invited.update(before)
        while True:
            for command in self._round.handle(event):
                outcome = self._carry_out(command)
                if outcome is not None:
                    return outcome
            event = await self._next(loop)
            self.on_event(event)

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
                self._tell(Accepted(now, frame.client, frame.num_examples))
            case Settled():
                self._tell(Rejected(now, frame.client, frame.reason or Reason.MALFORMED, frame.detail))
            case Evaluated():
                self._take_report(now, frame)
            case _:
                pass

    def expects(self, client: str) -> bool:
        """Whether a failure of this client would be news: it is invited, and has not failed before."""
        return self._round is not None and client in self._round.invited and client not in self._failed

    def delivered(self, partial: Partial | None) -> None:
        """The tree has handed in its sum: the one answer to a seal.

        A sum with a client who is counted already, or was never invited, is dropped whole: the round opens again for
        the others in it.
        """
        if not self._awaited:
            _log.error("a sum that nobody awaits was dropped", round=self.plan.key.round)
            return
        self._awaited = False
        counted = {name for part in self.partials for name in part.contributions}
        if partial is not None:
            names = partial.contributions.keys()
            invited = self._round.invited if self._round is not None else frozenset()
            odd = sorted((names & counted) | (names - invited))
            if odd:
                _log.error("a sum was dropped", round=self.plan.key.round, counted_or_uninvited=odd[:3])
            else:
                self.partials.append(partial)
                counted |= names
        self._tell(Sealed(_now(), frozenset(counted)))

    def _take_report(self, now: float, frame: Evaluated) -> None:
        if self._round is None or frame.client not in self._round.invited or frame.client in self.reports:
            return
        try:
            check_report(frame, self.plan.spec.project, self.plan.model.digest, self.hub.key_of)
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
                if new:
                    self._invited.update(new)
                    self.on_invited(new)
                counted = tuple(plan.counted[name] for name in command.clients if name in plan.counted)
                opened = OpenRound(plan.key, plan.spec, plan.model, command.clients, plan.package, counted)
                self.hub.receive_from_parent(opened)
            case Withdraw():
                self.hub.receive_from_parent(frames.Withdraw(plan.key, command.client, command.why))
            case Seal():
                if plan.key.kind is Kind.TRAIN:
                    self._awaited = True
                    self.hub.receive_from_parent(frames.Seal(plan.key))
                else:
                    self._tell(Sealed(_now(), frozenset(self.reports)))
            case WakeAt():
                self._wake_at = command.at
            case Finish():
                return command.outcome
        return None

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
