"""A session's events as rows on a board, until it ends or the watcher has seen enough."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hansa.cli.board import Board, Row, open_board
from hansa.cli.output import counted, print_json, say

if TYPE_CHECKING:
    from hansa.api.client import Client
    from hansa.store.records import EventRecord, SessionRecord

__all__ = ["Rounds", "broken", "ended", "evaluations", "tell", "title_of", "watch"]


@dataclass(slots=True)
class Rounds:
    """Puts the commit of a round and its evaluation together, which are told one after the other."""

    show: Callable[[Row], None]
    evaluates: Callable[[int], bool]
    """Whether a round will be evaluated."""
    pending: dict[int, Row] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    """Of the round under way: who failed or was refused, and why."""
    shown: list[Row] = field(default_factory=list)

    def take(self, event: "EventRecord") -> None:
        """A stored event of the session."""
        number = event.data.get("round")
        if event.kind == "task.failed":
            self.losses.append(event.message)
        if not isinstance(number, int):
            return
        if event.kind == "round.committed":
            self._flush(number - 1)
            self.pending[number] = _row(number, event.data, tuple(self.losses))
            self.losses.clear()
            if not self.evaluates(number):
                self._flush(number)
        elif event.kind == "round.evaluated" and number in self.pending:
            row = self.pending[number]
            metrics = event.data.get("metrics")
            measured = metrics if isinstance(metrics, Mapping) else {}
            self.pending[number] = replace(row, metrics={**row.metrics, **_numbers(measured)})
            self._flush(number)
        elif event.kind == "evaluation.failed" and number in self.pending:
            row = self.pending[number]
            self.pending[number] = replace(row, names=(*row.names, event.message))

    def end(self) -> None:
        """Nothing more comes."""
        self._flush(max(self.pending, default=0))

    def _flush(self, upto: int) -> None:
        for number in sorted(number for number in self.pending if number <= upto):
            row = self.pending.pop(number)
            self.shown.append(row)
            self.show(row)


def watch(
    api: "Client", session: "SessionRecord", *, as_json: bool, after: int = 0, title: str = ""
) -> tuple["SessionRecord", list[Row]]:
    """Show a session until it ends; returns it as it is then, and its rounds. Ctrl-C passes through."""
    if session.spec.parties:
        return _watch_program(api, session, as_json=as_json, after=after), []
    with open_board(title or title_of(session), session.rounds, as_json=as_json) as board:
        rounds = Rounds(_shower(board, as_json=as_json), evaluations(session))
        for happened in api.sessions.watch(session.id, after, broken(board.say)):
            tell(board, rounds, happened)
        rounds.end()
    return api.sessions.get(session.id), rounds.shown


def _watch_program(api: "Client", session: "SessionRecord", *, as_json: bool, after: int) -> "SessionRecord":
    """Say what its parties come to, one after another."""
    from hansa.store.records import EventRecord

    say(f"session {session.name} ({session.id}): {', '.join(session.spec.parties)}", as_json=as_json)
    for happened in api.sessions.watch(session.id, after, broken(partial(say, as_json=as_json))):
        if isinstance(happened, EventRecord) and happened.kind.partition(".")[0] in {"party", "task"}:
            if as_json:
                print_json(happened)
            else:
                say(happened.message)
    return api.sessions.get(session.id)


def broken(say: Callable[[str], None]) -> Callable[[str], None]:
    """What `events.stream` tells of its connection, as a line. What is watched goes on meanwhile."""
    return lambda why: say(f"{why}. Trying again; what happens meanwhile is not missed." if why else "Connected again.")


def title_of(session: "SessionRecord") -> str:
    """One line on a session."""
    spec = session.spec
    return f"session {session.name} ({session.id}): {spec.algorithm}, {counted(session.rounds, 'round')}"


def ended(session: "SessionRecord") -> str:
    """One sentence on how a session ended."""
    return f"Session {session.name} {session.state.value}: {session.cause}"


def tell(board: Board, rounds: Rounds, happened: Any) -> None:
    """A stored event goes to the rounds; a live one only says what goes on."""
    from hansa.rounds.why import far
    from hansa.store.records import EventRecord

    if isinstance(happened, EventRecord):
        rounds.take(happened)
        if happened.kind in {"session.started", "node.left"}:
            board.status(happened.message)
        return
    data = happened.data
    match happened.kind:
        case "train.opened" | "evaluate.opened":
            board.status(f"round {data.get('round')}: {happened.kind.partition('.')[0]}")
        case "client.progress":
            done, total, activity = data.get("done", 0), data.get("total"), str(data.get("activity"))
            said = f" {far(activity, done, total)}" if total else ""
            board.status(f"round {data.get('round')}: {data.get('client')} {activity}{said}")
        case "client.rejected":
            rounds.losses.append(f"{data.get('client')} rejected: {data.get('reason')}: {data.get('detail')}")
        case _:
            pass


def _shower(board: Board, *, as_json: bool) -> Callable[[Row], None]:
    def show(row: Row) -> None:
        board.row(row)
        if as_json:
            print_json(row)

    return show


def evaluations(session: "SessionRecord") -> Callable[[int], bool]:
    """Whether a round is followed by an evaluation, by the rules of the session."""
    rules, rounds = session.spec.evaluation, session.rounds
    central = rules.central and session.package is not None
    return lambda number: (
        rules.every > 0 and (rules.clients or central) and (number % rules.every == 0 or number == rounds)
    )


def _row(number: int, data: Mapping[str, Any], losses: tuple[str, ...]) -> Row:
    missing = data.get("missing") or ()
    names = losses + ((f"missing: {', '.join(map(str, missing))}",) if missing else ())
    return Row(
        round=number,
        metrics=_numbers(data.get("metrics") or {}),
        accepted=int(data.get("accepted", 0)),
        rejected=int(data.get("rejected", 0)),
        failed=int(data.get("failed", 0)),
        missing=len(missing),
        seconds=float(data.get("seconds", 0.0)),
        names=names,
    )


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
