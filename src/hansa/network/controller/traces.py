"""Traces of sessions, made from what their journal tells: nothing on the path of a round knows of them.

A session is a trace of one span, and each of its rounds a trace that is linked to it. A round's spans are made when it
is over, from its rows, its stored events and what was told live: until then a process that dies has lost none of them.
Ids follow from the stored events alone, so that whoever goes on with a session goes on with its traces.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, cast

import structlog
from blake3 import blake3

from hansa.errors import NotFoundError, StorageUnavailableError
from hansa.messages import Kind, Value
from hansa.network.controller.commit import COMMITTED, OPENED
from hansa.network.controller.journal import Journal, Live
from hansa.network.patience import patiently
from hansa.store.link import ACCEPTED
from hansa.store.paging import every
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import ContributionRecord, EventRecord, RoundRecord, SessionRecord, SessionState

__all__ = ["MOST_TASKS", "Moment", "Place", "Span", "Traces"]

_log = structlog.get_logger(__name__)

MOST_TASKS: Final = 100
"""Tasks of one round that have spans of their own: first those that came to nothing, then the slowest."""

_MOST_MOMENTS: Final = 100
_MOST_KNOWN: Final = 1000
"""Sessions of which it is known where their spans are found, those that ended among them."""
_LONGEST: Final = 4096
"""Characters of a traceback, from its end."""
_TIME_TO_LEAVE: Final = 1.0
"""Seconds for which the end waits for events that are stored, and not looked at yet."""

_STARTED: Final = "session.started"
_TASK_FAILED: Final = "task.failed"
_EVALUATED: Final = "round.evaluated"
_NOT_EVALUATED: Final = "evaluation.failed"
_ENDS: Final = {f"session.{end}": end for end in (SessionState.FINISHED, SessionState.FAILED, SessionState.STOPPED)}
_OUTCOMES: Final = {"client.accepted": ACCEPTED, "client.rejected": "rejected", "client.failed": "failed"}

Attributes = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a span is found."""

    trace: int
    """128 bits."""
    span: int
    """64 bits."""

    @classmethod
    def of(cls, *parts: object, within: "Place | None" = None) -> "Place":
        """What follows from these parts. within: a span of the same trace; None: a trace begins."""
        digest = blake3("/".join(map(str, parts)).encode()).digest()
        trace = int.from_bytes(digest[:16], "big") if within is None else within.trace
        return cls(trace, int.from_bytes(digest[16:24], "big"))


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened within a span."""

    name: str
    at: float
    """Seconds since 1970, as all times here."""
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """One that is over."""

    name: str
    place: Place
    start: float
    end: float
    attributes: Attributes
    parent: Place | None = None
    link: Place | None = None
    moments: Sequence[Moment] = ()
    error: str = ""
    """Why it has failed, in a line; empty: it has not."""


@dataclass(slots=True)
class _Task:
    """What became of a client's task."""

    client: str
    base: int
    """The round whose model it was given."""
    start: float
    end: float
    outcome: str
    reason: str = ""
    examples: int = 0
    moments: list[Moment] = field(default_factory=list)


@dataclass(slots=True)
class _Heard:
    """What was told live of one session, and is stored nowhere."""

    ends: dict[tuple[str, int, str], tuple[float, str, str]] = field(default_factory=dict)
    """(phase, round, client) → (when, outcome, why)."""
    summed: dict[int, float] = field(default_factory=dict)
    """By round: when its sum was there."""
    evaluating: dict[int, float] = field(default_factory=dict)
    """By round: when its evaluation began."""

    def hear(self, live: Live) -> None:
        number, phase = live.data.get("round"), str(live.data.get("phase", ""))
        if not isinstance(number, int):
            return
        match live.kind:
            case "round.summed" if phase == Kind.TRAIN:
                self.summed[number] = live.at
            case "evaluate.opened":
                self.evaluating[number] = live.at
            case kind if kind in _OUTCOMES:
                why = live.data.get("detail") or live.data.get("message") or ""
                reason = live.data.get("reason")
                said = f"{reason}: {why}" if reason else str(why)
                self.ends[phase, number, str(live.data["client"])] = live.at, _OUTCOMES[kind], said
            case _:
                pass

    def of(self, phase: Kind, number: int) -> dict[str, tuple[float, str, str]]:
        return {client: end for (kind, of, client), end in self.ends.items() if (kind, of) == (phase, number)}

    def forget(self, phase: Kind, number: int) -> None:
        """What is told of a phase up to that of a round."""
        self.ends = {key: end for key, end in self.ends.items() if key[0] != phase or key[1] > number}
        if phase is Kind.TRAIN:
            self.summed = {of: at for of, at in self.summed.items() if of > number}


class _SessionTraces:
    """One session from its start to its end: folds its events into spans."""

    def __init__(self, session: SessionRecord, started: EventRecord) -> None:
        """started: the first time since it was created, or has ended."""
        self.place = _place(session.id, started.id, None)
        self._session = session.id
        self._started = started
        self._common: Attributes = {
            "hansa.project": session.project,
            "hansa.session.id": session.id,
            "hansa.session.name": session.name,
        }
        self._algorithm = session.spec.algorithm
        self.invited: dict[tuple[int, str], float] = {}
        """(round, client) → when, of tasks that are not over."""
        self._failures: dict[tuple[str, int], list[EventRecord]] = {}
        """(phase, round) → what has failed in it."""
        self._moments: list[tuple[str, Moment]] = []
        """Of the round that is open, with the client that it is about."""
        self._open: tuple[int, float] | None = None
        """The round that is open, and since when."""
        self._committed: dict[int, float] = {}
        """Rounds whose evaluation was not told yet → when they were committed."""
        self._unevaluated: dict[int, tuple[float, str]] = {}

    def round_place(self, number: int) -> Place:
        return _place(self._session, self._started.id, number)

    def fold(self, told: EventRecord) -> None:
        """Keep what a stored event says of what is not over."""
        number = told.data.get("round")
        if not isinstance(number, int):
            return
        if told.kind == OPENED:
            if self._open is None or self._open[0] != number:
                self._open = number, told.at
            for client in cast("Sequence[str]", told.data["invited"]):
                self.invited.setdefault((number, client), told.at)
        elif told.kind == _TASK_FAILED:
            failures = self._failures.setdefault((str(told.data.get("phase", Kind.TRAIN)), number), [])
            if len(failures) < _MOST_MOMENTS:
                failures.append(told)
        elif told.kind == _NOT_EVALUATED:
            self._unevaluated.setdefault(number, (told.at, told.message))

    def left(self, client: str, at: float) -> None:
        """A client has gone."""
        at_work = any(invited == client for _, invited in self.invited)
        if self._open is not None and at_work and len(self._moments) < _MOST_MOMENTS:
            self._moments.append((client, Moment("client.disconnected", at, {"hansa.client.name": client})))

    def restarted(self, at: float) -> None:
        """Another controller goes on with it."""
        if self._open is not None and len(self._moments) < _MOST_MOMENTS:
            self._moments.append(("", Moment("controller.restarted", at)))

    # ── what is over ─────────────────────────────────────────────────────────────────────────────────────────────

    def committed(
        self,
        record: RoundRecord,
        parts: Iterable[ContributionRecord],
        given: Mapping[int, float],
        heard: _Heard,
        working: Mapping[str, int],
    ) -> Iterator[Span]:
        """A round's, its tasks' and its aggregation's. given: of earlier rounds' models, when they were given out."""
        number, end = record.number, record.closed_at
        start = min(record.opened_at, self._open[1] if self._open is not None else end)
        ends = heard.of(Kind.TRAIN, number)
        tasks = []
        for part in parts:
            base = part.base or number
            began = self.invited.get((base, part.client), given.get(base, start))
            over = end if part.outcome == "missing" else self._over(number, part.client, ends, end)
            tasks.append(
                _Task(part.client, base, began, max(began, over), part.outcome, part.reason, part.num_examples)
            )
        counts: Attributes = {
            "hansa.round.accepted": record.accepted,
            "hansa.round.rejected": record.rejected,
            "hansa.round.failed": record.failed,
            "hansa.round.missing": record.missing,
            "hansa.round.num_examples": record.weight,
            "hansa.round.outcome": "committed",
        }
        yield from self._round(number, start, end, tasks, counts=counts)
        if number in heard.summed:
            place = self.round_place(number)
            named = Place.of("aggregate", self._session, self._started.id, number, within=place)
            yield Span("aggregate", named, min(heard.summed[number], end), end, self._of(number), place)
        heard.forget(Kind.TRAIN, number)
        self._over_with(number)
        self._committed[number] = end
        if len(self._committed) > _MOST_MOMENTS:
            del self._committed[min(self._committed)]
        self.invited = {task: at for task, at in self.invited.items() if working.get(task[1]) == task[0]}

    def evaluated(self, number: int, at: float, metrics: Mapping[str, Value], heard: _Heard) -> Iterator[Span]:
        """An evaluation's, and those of earlier ones of which nothing was told but that they failed."""
        for earlier in sorted(each for each in self._unevaluated if each < number):
            yield self._evaluation(earlier, *self._unevaluated.pop(earlier), {}, heard)
        _, error = self._unevaluated.pop(number, (at, ""))
        yield self._evaluation(number, at, error, metrics, heard)

    def ended(self, told: EventRecord, heard: _Heard) -> Iterator[Span]:
        """The session's, and those of a round that ends with it."""
        state = _ENDS[told.kind]
        error = told.message.partition("\n")[0] if state is SessionState.FAILED else ""
        for number in sorted(self._unevaluated):
            yield self._evaluation(number, *self._unevaluated.pop(number), {}, heard)
        if self._open is not None:
            number, start = self._open
            ends, tasks = heard.of(Kind.TRAIN, number), []
            for (base, client), began in self.invited.items():
                over = self._over(number, client, ends, told.at)
                failed = self._failed(Kind.TRAIN, number, client)
                unheard = (over, "failed", failed[0].message) if failed else (over, "unfinished", "")
                _, outcome, reason = ends.get(client, unheard)
                tasks.append(_Task(client, base, began, max(began, over), outcome, reason))
            counts: Attributes = {"hansa.round.outcome": state.value}
            yield from self._round(number, start, told.at, tasks, counts=counts, error=error)
        attributes = {**self._common, "hansa.session.state": state.value, "hansa.algorithm": self._algorithm}
        yield Span("session", self.place, self._started.at, told.at, attributes, error=error)

    def _over(self, number: int, client: str, ends: Mapping[str, tuple[float, str, str]], end: float) -> float:
        """When a task was over; where nobody has told it, when its round was."""
        if client in ends:
            return ends[client][0]
        return min((each.at for each in self._failed(Kind.TRAIN, number, client)), default=end)

    def _failed(self, phase: Kind, number: int, client: str = "") -> list[EventRecord]:
        told = self._failures.get((phase, number), [])
        return [each for each in told if client in {"", each.data.get("client")}]

    def _of(self, number: int) -> Attributes:
        return {**self._common, "hansa.round.number": number}

    def _round(
        self, number: int, start: float, end: float, tasks: Sequence[_Task], *, counts: Attributes, error: str = ""
    ) -> Iterator[Span]:
        """The root, and its tasks below it."""
        place = self.round_place(number)
        shown = sorted(tasks, key=lambda task: (task.outcome == ACCEPTED, task.start - task.end, task.client))
        omitted = {"hansa.round.tasks_omitted": len(tasks) - MOST_TASKS} if len(tasks) > MOST_TASKS else {}
        attributes = {**self._of(number), "hansa.algorithm": self._algorithm, **counts, **omitted}
        lost = [
            Moment(f"client.{task.outcome}", task.end, {"hansa.client.name": task.client, "hansa.reason": task.reason})
            for task in shown[:_MOST_MOMENTS]
            if task.outcome != ACCEPTED
        ]
        moments = sorted([*(moment for _, moment in self._moments), *lost], key=lambda moment: moment.at)
        yield Span("round", place, start, end, attributes, link=self.place, moments=moments, error=error)
        for task in shown[:MOST_TASKS]:
            yield self._task(number, task, place)

    def _task(self, number: int, task: _Task, place: Place) -> Span:
        outcome: dict[str, str | int] = {"hansa.client.name": task.client, "hansa.task.outcome": task.outcome}
        if task.outcome == ACCEPTED:
            outcome["hansa.task.num_examples"] = task.examples
        else:
            outcome["error.type"] = task.reason.partition(":")[0] if task.outcome == "rejected" else task.outcome
        if task.base != number:
            outcome["hansa.task.model_round"] = task.base
        named = Place.of("task", self._session, self._started.id, number, task.client, task.base, within=place)
        happened = [moment for client, moment in self._moments if client == task.client]
        happened += map(_exception, self._failed(Kind.TRAIN, number, task.client))
        bad = task.outcome not in {ACCEPTED, "unfinished"}
        error = (task.reason.partition("\n")[0] or task.outcome) if bad else ""
        attributes = {**self._of(number), **outcome}
        return Span("task", named, task.start, task.end, attributes, place, moments=happened, error=error)

    def _evaluation(self, number: int, at: float, error: str, metrics: Mapping[str, Value], heard: _Heard) -> Span:
        place = self.round_place(number)
        named = Place.of("evaluate", self._session, self._started.id, number, within=place)
        start = heard.evaluating.pop(number, self._committed.get(number, at))
        self._committed.pop(number, None)
        ends = heard.of(Kind.EVALUATE, number)
        heard.forget(Kind.EVALUATE, number)
        moments = [
            Moment(f"client.{outcome}", when, {"hansa.client.name": client, "hansa.reason": why})
            for client, (when, outcome, why) in ends.items()
            if outcome != ACCEPTED
        ][:_MOST_MOMENTS]
        moments += map(_exception, self._failures.pop((Kind.EVALUATE, number), []))
        values = {f"hansa.metric.{name}": value for name, value in metrics.items() if isinstance(value, int | float)}
        accepted = sum(outcome == ACCEPTED for _, outcome, _ in ends.values())
        attributes = {**self._of(number), "hansa.evaluation.accepted": accepted, **values}
        moments.sort(key=lambda moment: moment.at)
        return Span("evaluate", named, min(start, at), at, attributes, place, moments=moments, error=error)

    def _over_with(self, number: int) -> None:
        self._open, self._moments = None, []
        self._failures = {key: told for key, told in self._failures.items() if key[0] != Kind.TRAIN or key[1] > number}


class Traces:
    """Follows the journal of each project, and tells of spans that are over."""

    def __init__(self, store: MetadataStore, journal: Journal, export: Callable[[Iterable[Span]], None]) -> None:
        """export: told of spans, parents first; it must not wait."""
        self._store = store
        self._journal = journal
        self._export = export
        self._sessions: dict[str, _SessionTraces] = {}
        self._starts: dict[str, int] = {}
        """By session, the newest last: the event that started it."""
        self._heard: dict[str, _Heard] = {}
        self._following: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[str, int] = {}
        """By project: the newest event that was looked at."""
        self._moved = asyncio.Event()
        journal.watched_by(self._hear)

    async def follow(self, project: str) -> None:
        """A project from now on; before its sessions are taken up."""
        if project not in self._following:
            self._seen[project] = await self._newest(project)
            self._following[project] = asyncio.create_task(self._follow(project))
            self._following[project].add_done_callback(self._unfollowed)

    async def aclose(self) -> None:
        """Look at what is stored by now, and follow no longer."""
        with suppress(TimeoutError, StorageUnavailableError):
            async with asyncio.timeout(_TIME_TO_LEAVE):
                for project, task in self._following.items():
                    newest = await self._newest(project)
                    self._journal.notify()
                    while self._seen[project] < newest and not task.done():
                        self._moved.clear()
                        await self._moved.wait()
        for task in self._following.values():
            task.cancel()
        await asyncio.gather(*self._following.values(), return_exceptions=True)

    def place_of(self, session: str, number: int | None) -> Place | None:
        """Where the span of a session is found, or that of one of its rounds; None where it has heard of none."""
        started = self._starts.get(session)
        return None if started is None else _place(session, started, number)

    def _unfollowed(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a project is not traced any more", exc_info=error)
        self._moved.set()

    def _hear(self, told: EventRecord | Live) -> None:
        """Live events at once: those of a round are heard when its commit is looked at, however late that is."""
        task = self._following.get(told.project)
        if isinstance(told, Live) and told.session and task is not None and not task.done():
            self._heard.setdefault(told.session, _Heard()).hear(told)

    async def _newest(self, project: str) -> int:
        newest = (await self._store.list(EventRecord, Query(project, sort="-id", limit=1))).items
        return newest[0].id if newest else 0

    async def _follow(self, project: str) -> None:
        while True:
            with suppress(StorageUnavailableError):
                async for told in self._journal.follow(project, self._seen[project]):
                    if isinstance(told, EventRecord):
                        await self._take(told)
                        self._seen[project] = told.id
                        self._moved.set()
            await patiently(lambda: self._newest(project), who="traces")

    async def _take(self, told: EventRecord) -> None:
        """One event more; if done twice, it says the same."""
        with suppress(NotFoundError):  # the session was deleted meanwhile
            if told.kind == _STARTED:
                await self._begin(told)
        if told.kind == "node.left":
            for each in self._sessions.values():
                each.left(str(told.data.get("name")), told.at)
        session = self._sessions.get(told.session)
        if session is None:
            return
        heard = self._heard.setdefault(told.session, _Heard())
        number = told.data.get("round")
        match told.kind:
            case "round.committed" if isinstance(number, int):
                with suppress(NotFoundError):
                    await self._committed(told, number, session, heard)
            case "round.evaluated" if isinstance(number, int):
                self._export(
                    session.evaluated(number, told.at, cast("Mapping[str, Value]", told.data["metrics"]), heard)
                )
            case kind if kind in _ENDS:
                self._export(session.ended(told, heard))
                del self._sessions[told.session], self._heard[told.session]
            case _:
                session.fold(told)

    async def _begin(self, told: EventRecord) -> None:
        """Take up a session, with what was stored of the round that is open before this controller came."""
        if told.session in self._sessions:
            return
        record = await self._store.get(SessionRecord, told.project, told.session)
        starts = [told, *[each async for each in self._back(told, {_STARTED}, _ENDS)]]
        session = _SessionTraces(record, starts[-1])
        kinds = {OPENED, _TASK_FAILED}
        for each in reversed([each async for each in self._back(told, kinds, {COMMITTED, *_ENDS})]):
            session.fold(each)
        if len(starts) > 1:
            session.restarted(told.at)
        self._sessions[told.session] = session
        self._starts.pop(told.session, None)
        self._starts[told.session] = starts[-1].id
        if len(self._starts) > _MOST_KNOWN:
            del self._starts[next(iter(self._starts))]

    async def _back(
        self, told: EventRecord, kinds: Collection[str], until: Collection[str]
    ) -> AsyncIterator[EventRecord]:
        """A session's events before one, the newest first, as far as the first of `until`."""
        where = {"session": told.session, "kind": [*kinds, *until]}
        async for each in every(self._store, EventRecord, Query(told.project, where, sort="-id")):
            if each.kind in until and each.id < told.id:
                return
            if each.id < told.id:
                yield each

    async def _committed(self, told: EventRecord, number: int, session: _SessionTraces, heard: _Heard) -> None:
        record = await self._store.get(RoundRecord, told.project, f"{told.session}/{number}")
        query = Query(told.project, {"session": told.session, "round": number})
        parts = [part async for part in every(self._store, ContributionRecord, query)]
        unknown = {part.base for part in parts if part.base and (part.base, part.client) not in session.invited}
        given = {
            base: (await self._store.get(RoundRecord, told.project, f"{told.session}/{base}")).opened_at
            for base in unknown - {number}
        }
        working = told.data.get("working")
        at_work = cast("Mapping[str, int]", working) if isinstance(working, Mapping) else {}
        self._export(session.committed(record, parts, given, heard, at_work))


def _place(session: str, started: int, number: int | None) -> Place:
    """Of a session since it was started by an event, or of a round of it."""
    return Place.of("session", session, started) if number is None else Place.of("round", session, started, number)


def _exception(told: EventRecord) -> Moment:
    """What user code raised, by the conventions for exceptions."""
    trace = str(told.data.get("traceback", ""))
    last = next((line for line in reversed(trace.splitlines()) if line.strip()), "")
    kind = last.partition(":")[0].strip()
    attributes = {
        "hansa.client.name": str(told.data.get("client", "")),
        "exception.type": kind if kind.replace(".", "").replace("_", "").isalnum() else "Exception",
        "exception.message": told.message,
        "exception.stacktrace": trace[-_LONGEST:],
    }
    return Moment("exception", told.at, attributes)
