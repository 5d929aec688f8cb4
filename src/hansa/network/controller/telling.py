"""What a session tells of itself: events that are kept, and the live view of the phase under way."""

from collections.abc import Mapping

from hansa.messages import Value
from hansa.network.controller.commit import OPENED
from hansa.network.controller.journal import Journal, event
from hansa.rounds.events import Accepted, Event, Failed, Progressed, Rejected, Sealed
from hansa.rounds.why import listed
from hansa.store.records import EventRecord
from hansa.wire.frames import RoundKey, TaskFailed

__all__ = ["Telling"]


class Telling:
    """The voice of one session."""

    def __init__(self, project: str, session: str, journal: Journal) -> None:
        """session: its id."""
        self._project = project
        self._session = session
        self._journal = journal
        self._tracebacks: dict[str, str] = {}

    def event(self, kind: str, message: str, **data: Value) -> EventRecord:
        """An event that happens now and is not stored yet."""
        return event(self._project, self._session, kind, message, **data)

    def invited(self, number: int, clients: tuple[str, ...], memory: Mapping[str, Value] | None = None) -> EventRecord:
        """Who has a place in a round now (`commit.last_invited` reads it). memory: of the app's function that chose."""
        message = f"round {number}: invited {listed(clients)}"
        remembered = {"memory": dict(memory)} if memory is not None else {}
        return self.event(OPENED, message, round=number, invited=list(clients), **remembered)

    def opened(self, key: RoundKey) -> None:
        """A phase begins."""
        self._live(f"{key.kind}.opened", round=key.round)

    def happened(self, key: RoundKey, what: Event) -> None:
        """Something happened in a phase."""
        where = {"round": key.round, "phase": key.kind.value}
        match what:
            case Progressed():
                far = {"done": what.done, "total": what.total}
                self._live("client.progress", client=what.client, activity=what.activity, **far, **where)
            case Accepted():
                self._live("client.accepted", client=what.client, **where)
            case Rejected():
                why = {"reason": what.reason.value, "detail": what.detail}
                self._live("client.rejected", client=what.client, **why, **where)
            case Failed():
                self._live("client.failed", client=what.client, message=what.message, **where)
            case Sealed():
                self._live("round.summed", **where)
            case _:
                pass

    def failed(self, frame: TaskFailed) -> None:
        """Keep what went wrong, with its traceback, before anybody asks."""
        self._tracebacks[frame.client] = frame.traceback
        message = f"{frame.client} failed to {frame.key.kind} in round {frame.key.round}: {frame.message}"
        where = {"round": frame.key.round, "phase": frame.key.kind.value, "client": frame.client}
        told = self.event("task.failed", message, **where, traceback=frame.traceback)
        self._journal.later(told)

    def first_traceback(self, failed: Mapping[str, str]) -> str:
        """The traceback of the first client that failed: what a person wants to see in the cause."""
        told = [client for client in failed if self._tracebacks.get(client)]
        return f"\n{told[0]} said:\n{self._tracebacks[told[0]]}" if told else ""

    def _live(self, kind: str, **data: Value) -> None:
        self._journal.live(self._project, self._session, kind, **data)
