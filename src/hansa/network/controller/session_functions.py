"""The app's own functions beside the server in one session, and what they have left for later calls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from hansa.algorithm import Cohort
from hansa.arrays import Arrays
from hansa.messages import Candidate, RunSpec, Update, Value
from hansa.network.controller.functions import AppFunctions
from hansa.network.controller.row import SessionRow

__all__ = ["SessionFunctions"]


class SessionFunctions:
    """Select, configure and aggregate of one session. Every failure is a `RunFailedError`."""

    def __init__(self, row: SessionRow, functions: AppFunctions, labels: Callable[[str], Mapping[str, str]]) -> None:
        """labels: of a client, as they are now."""
        self._row = row
        self._functions = functions
        self._labels = labels
        self.memory: dict[str, Value] = {}
        """What the functions have left for later calls."""
        self.recalled: Mapping[str, Value] | None = None
        """The same when the round was opened that a controller that died had under way, until it is open again."""
        self.calls = ""
        """Which of them is under way; empty while none is."""

    def has(self, function: str) -> bool:
        """Whether the session's app has this function of its own."""
        return function in self._row.session.spec.functions

    def recall(self) -> None:
        """As a round opens again: whoever selected is not asked again, and has left what it had to leave."""
        if self.recalled is not None:
            self.memory, self.recalled = dict(self.recalled), None

    async def configured(self, number: int, broadcast: Arrays) -> RunSpec:
        """What clients are told in a round: the specification, with settings of the app's own function."""
        spec = self._row.session.spec
        if not self.has("configure"):
            return spec
        with self._calling("configure"):
            told = await self._functions.configure(self._row.session, number, broadcast, self.memory)
        return replace(spec, config=told)

    async def selected(self, number: int, available: Sequence[str]) -> Cohort:
        """Whom the app's own function invites."""
        clients = [Candidate(name, dict(self._labels(name))) for name in available]
        with self._calling("select"):
            return Cohort(await self._functions.select(self._row.session, number, clients, self.memory))

    async def aggregated(self, number: int, model: Arrays, updates: Iterator[tuple[str, Update]]) -> Arrays:
        """The change that the app's own function makes of its clients' changes. model: what they were given."""
        with self._calling("aggregate"):
            return await self._functions.aggregate(self._row.session, number, model, updates, self.memory)

    @contextmanager
    def _calling(self, function: str) -> Iterator[None]:
        self.calls = function
        try:
            yield
        finally:
            self.calls = ""
