"""Is the record of a session what it was when it was written? Asked of every row and of every byte that it names."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeVar

from hansa.errors import CorruptionError, NotFoundError
from hansa.store.link import verify_chain
from hansa.store.ports import MetadataStore, ObjectStore, Query
from hansa.store.records import ContributionRecord, ModelRecord, Record, RoundRecord, SessionRecord, SessionState

__all__ = ["Verification", "verify_session"]

R = TypeVar("R", bound=Record)

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found whole."""

    session: str
    rounds: int
    contributions: int
    objects: int
    """Models and states whose bytes were read and have the digest that is recorded."""
    bytes: int
    """Bytes of these objects."""
    head: str
    """The link of the last round: who keeps it elsewhere can tell later that no round was lost or rewritten since."""
    pruned: int = 0
    """Models and states whose bytes were given up by the session's policy, and so could not be read."""


async def verify_session(
    store: MetadataStore, objects: ObjectStore, project: str, session: str, head: str | None = None
) -> Verification:
    """Read all that a session has left. head: a link that its chain must contain.

    Raises `CorruptionError`, naming the first thing that is lost or changed, and `NotFoundError` for no such session.
    """
    record = await store.get(SessionRecord, project, session)
    rounds = [row async for row in _all(store, RoundRecord, project, session)]
    contributions = [row async for row in _all(store, ContributionRecord, project, session)]
    if record.state is SessionState.RUNNING:  # what was committed since is the next call's
        rounds = [row for row in rounds if row.number <= record.round]
        contributions = [row for row in contributions if row.round <= record.round]
    verify_chain(rounds, contributions, head)
    chain = sorted(rounds, key=lambda row: row.number)
    _check_session(record, chain)
    named: dict[str, str] = {}
    if record.seed_model:
        named[record.seed_model] = "the seed model"
    for row in chain:
        for digest, what in ((row.model, "model"), (row.state, "state of the algorithm")):
            if digest:
                named.setdefault(digest, f"the {what} of round {row.number}")
    kept = await _kept(store, project, record, chain)
    size, pruned = 0, len(named.keys() - kept)
    for digest, what in named.items():
        if digest in kept:
            try:
                size += await _read(objects, digest, f"{what} of session {record.name}")
            except CorruptionError:
                if digest in await _kept(store, project, record, chain):
                    raise
                pruned += 1  # while the others were read
    last = chain[-1].link if chain else ""
    return Verification(record.id, len(chain), len(contributions), len(named) - pruned, size, last, pruned)


async def _kept(store: MetadataStore, project: str, session: SessionRecord, chain: list[RoundRecord]) -> frozenset[str]:
    """Models and states that must be there: all that are not marked as pruned, the newest and the seed in any case."""
    rounds = {row.number: row async for row in _all(store, RoundRecord, project, session.id)}
    models = [row async for row in _all(store, ModelRecord, project, session.id)]
    pruned = {row.round for row in models if row.pruned_at is not None}
    kept = {row.model for row in chain if row.number not in pruned}
    kept |= {row.state for row in chain if rounds[row.number].state_pruned_at is None}
    if chain:
        kept |= {chain[-1].model, chain[-1].state}
    return frozenset(kept | {session.seed_model or ""})


def _check_session(record: SessionRecord, chain: list[RoundRecord]) -> None:
    """The session's own row agrees with its rounds."""
    if record.round != len(chain):
        raise CorruptionError(f"session {record.name} is at round {record.round}, but {len(chain)} rounds are recorded")
    if not chain:
        return
    if chain[0].parent_model != (record.seed_model or ""):
        raise CorruptionError(f"round 1 of session {record.name} starts from another model than the session's seed")
    if chain[-1].model != record.model:
        raise CorruptionError(f"the model of session {record.name} is not that of its last round")


async def _read(objects: ObjectStore, digest: str, what: str) -> int:
    """Bytes of an object; reading compares them with the digest."""
    size = 0
    try:
        async for chunk in objects.read(digest):
            size += len(chunk)
    except NotFoundError as error:
        raise CorruptionError(f"{what} is lost: there is no object {digest}") from error
    except CorruptionError as error:
        raise CorruptionError(f"{what} is damaged: {error}") from error
    return size


async def _all(store: MetadataStore, kind: type[R], project: str, session: str) -> AsyncIterator[R]:
    """Every row of a kind."""
    offset, total = 0, 1
    while offset < total:
        page = await store.list(kind, Query(project, {"session": session}, sort="id", limit=_PAGE, offset=offset))
        for row in page.items:
            yield row
        offset, total = offset + _PAGE, page.total
