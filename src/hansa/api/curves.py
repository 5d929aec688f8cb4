"""A session's numbers round by round, as columns: what a chart draws, without a row for each client."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from hansa.api.results import Band, Curve, Curves, RoundColumns, Spread
from hansa.messages import Kind
from hansa.store.paging import every
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import ContributionRecord, MetricRecord, Record, RoundRecord, SessionRecord
from hansa.wire.frames import CENTRAL

__all__ = ["UPDATE_NORM", "Charts", "nearest_rank"]

R = TypeVar("R", bound=Record)

_STRIDE: Final = 100
"""Rounds whose clients are read at once."""
_REMEMBERED: Final = 32
"""Sessions whose spread is kept between requests."""
_MERGED: Final = ("", CENTRAL)
UPDATE_NORM: Final = "update_norm"
"""What the servers measure of each update, drawn among the metrics of training."""

_Name = tuple[Kind, str]


@dataclass(frozen=True, slots=True)
class _Point:
    """One metric of one round, over clients."""

    round: int
    low: float
    middle: float
    high: float
    clients: int


class Charts:
    """Reads curves from the store; what lies between the clients of a committed round is read once."""

    def __init__(self, store: MetadataStore) -> None:
        """store: where rounds and metrics are."""
        self._store = store
        self._spread: dict[tuple[str, str], tuple[int, dict[_Name, list[_Point]]]] = {}

    async def curves(self, project: str, session: str, after: int) -> Curves:
        """Every metric merged over clients, and central, of the rounds after this one; and the rounds themselves."""
        found = await self._store.get(SessionRecord, project, session)
        where: dict[str, Any] = {"session": session} | _since("round", after, found.round)
        values: dict[tuple[Kind, str, str], list[tuple[int, float]]] = defaultdict(list)
        async for metric in self._rows(MetricRecord, project, where | {"client": _MERGED}):
            values[metric.kind, metric.name, metric.client].append((metric.round, metric.value))
        since = {"session": session} | _since("number", after, found.round)
        rounds = [row async for row in self._rows(RoundRecord, project, since)]
        curves = [
            Curve(kind, name, client, *_columns(sorted(points))) for (kind, name, client), points in values.items()
        ]
        return Curves(tuple(curves), _round_columns(sorted(rounds, key=lambda row: row.number)))

    async def spread(self, project: str, session: str, after: int) -> Spread:
        """How far apart the clients of each round after this one are, in every metric.

        Training metrics are of accepted updates; an evaluation's, of each client that evaluated.
        """
        found = await self._store.get(SessionRecord, project, session)
        key = project, session
        done, kept = self._spread.pop(key, (0, {}))
        while done < found.round - 1:
            last = min(done + _STRIDE, found.round - 1)
            for name, points in (await self._of_clients(project, session, range(done + 1, last + 1))).items():
                kept.setdefault(name, []).extend(points)
            done = last
        while len(self._spread) >= _REMEMBERED:
            del self._spread[next(iter(self._spread))]
        self._spread[key] = done, kept
        newest = await self._of_clients(project, session, range(done + 1, found.round + 1))  # it may be evaluated yet
        names = sorted({*kept, *newest})
        bands = (_band(name, [*kept.get(name, ()), *newest.get(name, ())], after) for name in names)
        return Spread(tuple(band for band in bands if band.rounds))

    async def _of_clients(self, project: str, session: str, rounds: Iterable[int]) -> Mapping[_Name, list[_Point]]:
        wanted = list(rounds)
        if not wanted:
            return {}
        where: dict[str, Any] = {"session": session, "round": wanted}
        values: dict[tuple[_Name, int], list[float]] = defaultdict(list)
        async for row in self._rows(ContributionRecord, project, where | {"outcome": "accepted"}):
            measured = {} if row.norm is None else {UPDATE_NORM: row.norm}
            for metric_name, number in (dict(row.metrics) | measured).items():
                values[(Kind.TRAIN, metric_name), row.round].append(number)
        async for metric in self._rows(MetricRecord, project, where | {"kind": Kind.EVALUATE.value}):
            if metric.client not in _MERGED:
                values[(Kind.EVALUATE, metric.name), metric.round].append(metric.value)
        points: dict[_Name, list[_Point]] = defaultdict(list)
        for (name, in_round), found in sorted(values.items(), key=lambda item: item[0][1]):
            known = sorted(value for value in found if value == value)  # noqa: PLR0124 - NaN is not itself
            if known:
                low, middle, high = (nearest_rank(known, share) for share in (10, 50, 90))
                points[name].append(_Point(in_round, low, middle, high, len(known)))
        return points

    def _rows(self, kind: type[R], project: str, where: Mapping[str, Any]) -> AsyncIterator[R]:
        return every(self._store, kind, Query(project, where))


def nearest_rank(ordered: Sequence[float], percent: int) -> float:
    """The value at or below which `percent` per cent of the values lie; ordered: ascending, one at least."""
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]


def _since(column: str, after: int, newest: int) -> dict[str, Any]:
    """A condition for the few newest rounds; for many it is cheaper to read them all."""
    return {column: list(range(after + 1, newest + 1))} if 0 < newest - after <= _STRIDE else {}


def _columns(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    return tuple(number for number, _ in points), tuple(value for _, value in points)


def _band(name: _Name, points: Sequence[_Point], after: int) -> Band:
    shown = [point for point in points if point.round > after]
    return Band(
        *name,
        rounds=tuple(point.round for point in shown),
        low=tuple(point.low for point in shown),
        middle=tuple(point.middle for point in shown),
        high=tuple(point.high for point in shown),
        clients=tuple(point.clients for point in shown),
    )


def _round_columns(rounds: Sequence[RoundRecord]) -> RoundColumns:
    return RoundColumns(
        number=tuple(row.number for row in rounds),
        opened_at=tuple(row.opened_at for row in rounds),
        closed_at=tuple(row.closed_at for row in rounds),
        accepted=tuple(row.accepted for row in rounds),
        rejected=tuple(row.rejected for row in rounds),
        failed=tuple(row.failed for row in rounds),
        missing=tuple(row.missing for row in rounds),
        weight=tuple(row.weight for row in rounds),
        model=tuple(row.model for row in rounds),
    )
