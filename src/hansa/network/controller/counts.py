"""What has happened since the controller started, counted as it is told: the numbers that only grow.

Labels are bounded: projects, which site administrators make, and fixed words. No client and no session is one.
"""

from collections.abc import Sized
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from hansa.errors import Reason
from hansa.network.controller.journal import Live
from hansa.store.records import EventRecord, SessionState
from hansa.wire.frames import Role

__all__ = ["Counts"]

_SECONDS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14_400, 86_400)
_ENDS: Final = {f"session.{state}": state for state in SessionState if state not in {"created", "running"}}
_OUTCOMES: Final = ("accepted", "rejected", "failed", "missing")
_CONNECTED: Final = {"client.connected": Role.CLIENT, "combiner.connected": Role.COMBINER}


class Counts:
    """Counters that the journal feeds, in a registry of their own: several controllers may be in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(name, about, ("project", *labels), registry=self.registry)

        self._rounds = counter("hansa_rounds_committed", "Rounds that were committed.")
        self._seconds = Histogram(
            "hansa_round_duration_seconds",
            "Seconds from the opening of a round to its commit.",
            ("project",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._uploads = Histogram(
            "hansa_upload_duration_seconds",
            "Seconds from an upload's admission at the controller to its last byte.",
            ("project",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._updates = counter("hansa_updates", "What became of those invited to committed rounds.", "outcome")
        self._rejected = counter("hansa_updates_rejected", "Updates that were refused, when they were.", "reason")
        self._tasks = counter("hansa_tasks_failed", "Tasks that clients reported as failed.")
        self._ended = counter("hansa_sessions_ended", "Sessions that ended, each time that they did.", "state")
        self._connected = counter("hansa_nodes_connected", "Connections of nodes, anew or again.", "role")
        self._left = counter("hansa_nodes_disconnected", "Connections of nodes that ended.")

    def known(self, project: str) -> None:
        """Show a project's numbers from 0 on, so that the first event of a kind is an increase."""
        for one in (self._rounds, self._seconds, self._uploads, self._tasks, self._left):
            one.labels(project)
        for outcome in _OUTCOMES:
            self._updates.labels(project, outcome)
        for state in _ENDS.values():
            self._ended.labels(project, state)
        for reason in Reason:
            self._rejected.labels(project, reason)
        for role in _CONNECTED.values():
            self._connected.labels(project, role)

    def uploaded(self, project: str, seconds: float) -> None:
        """Count an upload."""
        self._uploads.labels(project).observe(seconds)

    def happened(self, told: EventRecord | Live) -> None:
        """Count what the journal was told."""
        project, data = told.project, told.data
        match told.kind:
            case "round.committed":
                self._rounds.labels(project).inc()
                self._seconds.labels(project).observe(float(str(data["seconds"])))
                for outcome in _OUTCOMES:
                    self._updates.labels(project, outcome).inc(_number(data[outcome]))
            case "client.rejected":
                self._rejected.labels(project, data["reason"]).inc()
            case "task.failed":
                self._tasks.labels(project).inc()
            case "node.left":
                self._left.labels(project).inc()
            case kind if kind in _ENDS:
                self._ended.labels(project, _ENDS[kind]).inc()
            case kind if kind in _CONNECTED:
                self._connected.labels(project, _CONNECTED[kind]).inc()
            case _:
                pass


def _number(told: object) -> int:
    """Of a number, or of the names in its place."""
    return len(told) if isinstance(told, Sized) else int(str(told))
