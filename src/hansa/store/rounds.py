"""What must hold of a round before it is written: its parts agree, and it follows the newest one of its session."""

from hansa.errors import ConflictError, InputError
from hansa.store.link import ACCEPTED
from hansa.store.ports import RoundCommit
from hansa.store.records import RoundRecord

__all__ = ["check_commit", "check_successor"]


def check_commit(commit: RoundCommit) -> None:
    """Raise `InputError`, naming the part, unless all parts speak of one round and its sums are those of the parts."""
    session, record, model = commit.session, commit.round, commit.model
    where = f"the commit of round {record.number} of session {record.session}"
    accepted = [c for c in commit.contributions if c.outcome == ACCEPTED]
    claims = {
        "round.number, from 1": (record.number >= 1, True),
        "session.id": (session.id, record.session),
        "session.round": (session.round, record.number),
        "session.model": (session.model, record.model),
        "model.id": (model.id, record.model),
        "model.parent": (model.parent or "", record.parent_model),
        "model.session and .round": ((model.session, model.round), (record.session, record.number)),
        "the number of accepted contributions": (len(accepted), record.accepted),
        "their examples": (sum(c.num_examples for c in accepted), record.weight),
    }
    for what, (actual, expected) in claims.items():
        if actual != expected:
            raise InputError(f"{where} contradicts itself: {what} should be {expected!r}, not {actual!r}")
    parts = [(part.id, part.session, part.round) for part in commit.contributions]
    parts += [(part.id, part.session, part.round) for part in commit.metrics]
    for key, of_session, of_round in parts:
        if (of_session, of_round) != (record.session, record.number):
            raise InputError(f"{where} holds {key!r}, which is of round {of_round} of session {of_session}")
    projects = {session.project, model.project}
    for rows in (commit.contributions, commit.metrics, commit.events):
        projects |= {row.project for row in rows}
    if projects != {record.project}:
        raise InputError(f"{where} is in project {record.project!r}, but has rows in {sorted(projects)}")


def check_successor(record: RoundRecord, link: str, previous: RoundRecord | None, existing: RoundRecord | None) -> bool:
    """Whether the round is committed already; raise `ConflictError` when another one is, or when it does not follow.

    link: what the round's link must be; previous, existing: the committed rounds with the number before and this one.
    """
    where = f"round {record.number} of session {record.session}"
    if record.number > 1 and previous is None:
        raise ConflictError(f"{where} cannot be committed: round {record.number - 1} has not been")
    if existing is not None and existing.model != record.model:
        raise ConflictError(f"{where} is committed with model {existing.model}; {record.model} cannot take its place")
    if previous is not None and record.parent_model != previous.model:
        raise ConflictError(
            f"{where} starts from model {record.parent_model}, but the round before made {previous.model}: "
            "read the session again and repeat the round"
        )
    if record.link not in ("", link):
        raise ConflictError(
            f"{where} has the link {record.link}, but after the committed rounds it must be {link}: "
            "read the session again and repeat the round"
        )
    if existing is not None and existing.link != link:
        raise ConflictError(f"{where} is committed with other contributors; these cannot take their place")
    return existing is not None
