"""What happened in the laboratory: what processes wrote down, what the controller has stored, what lies on the disk."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from hansa.api.client import Client
from hansa.network.controller.installation import mark_of, own_id
from hansa.store.records import ContributionRecord, ModelRecord, RoundRecord, SessionRecord

__all__ = ["History", "Session", "left_over", "read_history"]


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it is stored."""

    record: SessionRecord
    rounds: tuple[RoundRecord, ...]
    contributions: tuple[ContributionRecord, ...]
    models: tuple[ModelRecord, ...] = ()
    stored: frozenset[str] = frozenset()
    """Digests of its models, states and aggregates whose bytes could be read, and are those of the digest."""


@dataclass(frozen=True, slots=True)
class History:
    """All that a checker looks at."""

    sessions: tuple[Session, ...]
    notes: tuple[dict[str, Any], ...] = ()
    """Lines of the processes, in the order of time."""
    trainings: tuple[tuple[str, int, str], ...] = ()
    """(session's name, round, client), once for each time that user code was run."""
    leaks: tuple[str, ...] = ()
    """Where a token was found in a log."""
    left: tuple[str, ...] = ()
    """Files of a transfer or of an update that outlived their use."""
    exits: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Exit codes of processes that ended by themselves."""
    unneeded: tuple[str, ...] | None = None
    """Objects on the disk that no record needs, after an operator has had them removed; None: nobody has."""


def read_history(
    folder: Path, api: Client, tokens: Sequence[str], known: Mapping[str, Session] | None = None
) -> History:
    """Collect it; every session must have ended. known: sessions that are not read again, by id; None: all are read.

    Where all are read, whatever nobody needs is removed before, as an operator does it.
    """
    if known is None:
        api.prune(grace=0.0)
    lines = [json.loads(line) for file in (folder / "history").iterdir() for line in file.read_text().splitlines()]
    trainings = (folder / "trainings").read_text().split("\n")[:-1] if (folder / "trainings").exists() else []
    sessions = [(known or {}).get(record.id) or _session(api, record, folder) for record in api.sessions.all()]
    return History(
        sessions=tuple(sessions),
        notes=tuple(sorted(lines, key=lambda line: line["at"])),
        trainings=tuple((name, int(number), client) for name, number, client in map(str.split, trainings)),
        leaks=tuple(_leaks(folder, tokens)),
        left=tuple(left_over(folder)),
        unneeded=_unneeded(api, sessions, folder) if known is None else None,
    )


def _session(api: Client, record: SessionRecord, folder: Path) -> Session:
    rounds = tuple(sorted(api.rounds.all(session=record.id), key=lambda each: each.number))
    contributions = tuple(
        part for each in rounds for part in api.rounds.contributions(record.id, each.number, limit=1000).items
    )
    models = tuple(api.models.all(session=record.id))
    made = (digest for each in rounds for digest in (each.model, each.state, each.aggregate or ""))
    wanted = {record.seed_model or "", *made} - {""}
    objects = folder / "data" / "objects"
    return Session(record, rounds, contributions, models, frozenset(e for e in wanted if _is_whole(objects, e)))


def _unneeded(api: Client, sessions: Sequence[Session], folder: Path) -> tuple[str, ...]:
    needed = {package.id for package in api.packages.all()} | {model.id for model in api.models.all(round=0)}
    for each in sessions:
        needed |= {model.id for model in each.models if model.pruned_at is None}
        needed |= {found.state for found in each.rounds if found.state_pruned_at is None}
        needed |= {found.aggregate or "" for found in each.rounds if found.aggregate_pruned_at is None}
    needed.add(blake3(mark_of(own_id(folder / "data" / "keys"))).hexdigest())
    stored = {path.name for path in (folder / "data" / "objects").glob("??/??/*")}
    return tuple(sorted(stored - needed))


def _is_whole(objects: Path, digest: str) -> bool:
    path = objects / digest[:2] / digest[2:4] / digest
    return path.is_file() and blake3(path.read_bytes()).hexdigest() == digest


def _leaks(folder: Path, tokens: Sequence[str]) -> list[str]:
    secrets = [token.encode() for token in tokens]
    return [path.name for path in (folder / "logs").iterdir() if any(secret in path.read_bytes() for secret in secrets)]


def left_over(folder: Path) -> list[str]:
    """Unfinished files of the nodes, now: some of them may be in use."""
    work = folder / "work"
    found = [path for pattern in ("*.part", ".*.????????", ".unfinished") for path in work.rglob(pattern)]
    return sorted(str(path.relative_to(folder)) for path in found)
