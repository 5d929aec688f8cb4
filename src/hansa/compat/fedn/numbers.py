"""Round ids as FEDn has them: whole numbers, over all sessions of a project, in the order in which rounds are met."""

from hansa.compat.fedn.notes import Notes
from hansa.messages import Kind
from hansa.wire.frames import RoundKey

__all__ = ["Numbers"]

_KIND = "round"


class Numbers:
    """Each round of each session has one number, which stays."""

    def __init__(self, notes: Notes) -> None:
        """notes: where they are kept."""
        self._notes = notes
        self._rounds: dict[int, tuple[str, int]] = {}
        self._ids: dict[tuple[str, int], int] = {}
        self.sessions: set[str] = set()
        """Those that a round was met of."""

    async def open(self) -> None:
        """Remember those that were given."""
        async for note in self._notes.every(_KIND):
            self._know(int(str(note.data["id"])), note.session, int(str(note.data["round"])))

    def of(self, session: str, number: int) -> str:
        """The id of a round, given now if it has none."""
        given = self._ids.get((session, number))
        if given is None:
            given = max(self._rounds, default=0) + 1
            self._know(given, session, number)
            self._notes.tell(_KIND, {"id": given, "round": number}, session=session, name=str(given))
        return str(given)

    def key(self, round_id: str) -> RoundKey | None:
        """The training phase of a round; None: there is no such id."""
        found = self._rounds.get(int(round_id[:18])) if round_id.isascii() and round_id.isdigit() else None
        return RoundKey(*found, Kind.TRAIN) if found is not None else None

    def _know(self, given: int, session: str, number: int) -> None:
        self._rounds[given] = session, number
        self._ids[session, number] = given
        self.sessions.add(session)
