"""What is done to a session's rows by who can write to the database, and by an operator who has the server's key."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hansa.evidence.record import Evidence
from hansa.statements import end_statement, round_statement
from hansa.store.link import linked, round_link, run_digest
from hansa.store.records import EventRecord, RoundRecord
from hansa.wire.node_key import NodeKey

Tamper = Callable[[Evidence], Evidence]


def changing(kind: str, which: int, **changes: Any) -> Tamper:
    """One row is another one."""

    def tamper(evidence: Evidence) -> Evidence:
        rows = list(getattr(evidence, kind))
        made = {name: value(rows[which]) if callable(value) else value for name, value in changes.items()}
        rows[which] = replace(rows[which], **made)
        return replace(evidence, **{kind: tuple(rows)})

    return tamper


def without(kind: str, which: int) -> Tamper:
    """One row is gone."""

    def tamper(evidence: Evidence) -> Evidence:
        rows = list(getattr(evidence, kind))
        del rows[which]
        return replace(evidence, **{kind: tuple(rows)})

    return tamper


def relinked(evidence: Evidence) -> Evidence:
    """Whoever can write to the database can reckon every hash anew; signatures they cannot make."""
    events: list[EventRecord] = []
    for event in evidence.events:
        events.append(linked(events[-1].link if events else None, event))
    moved = {old.link: new.link for old, new in zip(evidence.events, events, strict=True)}
    rounds = []
    for row in evidence.rounds:
        mine = [part for part in evidence.contributions if part.round == row.number]
        moved_row = replace(row, journal=moved.get(row.journal, row.journal))
        rounds.append(replace(moved_row, link=round_link(rounds[-1].link if rounds else "", moved_row, mine)))
    return replace(evidence, events=tuple(events), rounds=tuple(rounds))


def signed_anew(evidence: Evidence, server: NodeKey) -> Evidence:
    """An operator reckons every hash anew and signs all of it again: what clients have signed stays."""
    rounds: list[RoundRecord] = []
    for row in relinked(evidence).rounds:
        mine = [part for part in evidence.contributions if part.round == row.number]
        row = replace(row, run=run_digest(evidence.session))  # noqa: PLW2901  # it is changed step by step
        row = replace(row, link=round_link(rounds[-1].link if rounds else "", row, mine))  # noqa: PLW2901
        rounds.append(replace(row, signature=server.sign(round_statement(row.link)).value))
    events = list(relinked(evidence).events)
    end = evidence.events[-1]
    before, state = events[-2].link or "", end.kind.removeprefix("session.")
    said = end_statement(end.project, end.session, state=state, cause=end.message, head=rounds[-1].link, journal=before)
    data = {**end.data, "head": rounds[-1].link, "journal": before, "signature": server.sign(said).value}
    events[-1] = linked(before, replace(end, data=data))
    return replace(evidence, events=tuple(events), rounds=tuple(rounds))
