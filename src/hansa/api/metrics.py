"""The installation in numbers, as Prometheus scrapes them: what has happened, and what is the case now.

Counters are those of the controller (`Counts`), which its journal feeds, and of the answers of the REST API. Gauges are
read when they are asked for: from memory, and from the stores with a bound on the time, so that a store that is away is
a number and not a scrape that hangs.
"""

import asyncio
import platform
import shutil
from collections import Counter as Tally
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import hansa
from hansa.errors import HansaError, NotFoundError
from hansa.network.controller.controller import Controller
from hansa.network.controller.server import LEADERSHIP
from hansa.store.paging import every
from hansa.store.ports import MetadataStore, ObjectStore, Query
from hansa.store.records import EventRecord, ProjectRecord, SessionRecord, SessionState
from hansa.wire.frames import ROOT

__all__ = ["Metrics"]

_PATIENCE: Final = 2.0
"""Seconds in which a store has to answer; Prometheus itself waits for 10."""
_OPENMETRICS: Final = "application/openmetrics-text"
_LOGIN: Final = "/api/v1/login"
_REFUSED: Final = ("401", "429")
_NOBODYS: Final = "0" * 64
"""A digest that no object has."""


@dataclass(slots=True)
class _Stored:
    """What the metadata store knows, as far as it has answered."""

    projects: list[str] | None = None
    """None: it has not even said which there are."""
    sessions: dict[tuple[str, str], int] = field(default_factory=dict)
    """(project, state) → how many."""
    newest: dict[str, float] = field(default_factory=dict)
    """Project → POSIX seconds of its newest event."""
    nbytes: dict[str, int] = field(default_factory=dict)
    """Project → bytes that it holds on to."""
    replicas: int | None = None
    """Controllers that wait to take over."""


@dataclass(frozen=True, slots=True)
class _Families(Collector):
    """Families that were collected. When each counter began is left out: it is when the process did."""

    families: tuple[Metric, ...]

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        for family in self.families:
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


class Metrics:
    """Of one server."""

    def __init__(self, controller: Controller, data: Path) -> None:
        """data: the server's folder."""
        self._controller = controller
        self._data = data
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "hansa_http_requests",
            "Requests of the REST API that were answered, by route as the API has it; empty where there is none.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        for status in _REFUSED:  # from 0 on, so that the first burst is an increase
            self._requests.labels("POST", _LOGIN, status)

    def answered(self, method: str, route: str, status: int) -> None:
        """Count an answer. method, route: of the API, never as a stranger may have typed them."""
        self._requests.labels(method, route, status).inc()

    async def text(self, accept: str = "") -> tuple[bytes, str]:
        """(what is exposed, its media type). accept: the header of who asks."""
        encode, media_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accept.lower() else "")
        stored, controller = _Stored(), self._controller
        _, objects_up, disk, ends = await asyncio.gather(
            _answers(_read(controller.store, stored)),
            _answers(_look_at(controller.objects)),
            asyncio.to_thread(_disk, self._data),
            controller.certificate_ends(),
        )
        for project in {*(stored.projects or ()), *controller.trees}:
            controller.counts.known(project)
        sent, received = controller.traffic.total()
        families = (
            *self._registry.collect(),
            *controller.counts.registry.collect(),
            InfoMetricFamily("hansa_build", "The server's version.", _build()),
            *self._network(),
            CounterMetricFamily("hansa_sent_bytes", "Bytes sent to the nodes right below the controller.", sent),
            CounterMetricFamily("hansa_received_bytes", "Bytes received from them.", received),
            _gauge("hansa_event_streams", "Who follows events now.", [((), controller.journal.following)]),
            *_lag(controller.journal.lag),
            _gauge("hansa_store_up", "Whether the metadata store answers.", [((), stored.projects is not None)]),
            _gauge("hansa_object_store_up", "Whether the object store answers.", [((), objects_up)]),
            _gauge("hansa_data_free_bytes", "Bytes free where the server's folder is.", disk[:1]),
            _gauge("hansa_data_size_bytes", "Bytes of the disk where the server's folder is.", disk[1:]),
            _gauge(
                "hansa_certificate_expiry_timestamp_seconds",
                "When the certificate that the ports show expires, or the first that leads to its authority.",
                [] if ends is None else [((), ends)],
            ),
            *_of_store(stored),
        )
        return await asyncio.to_thread(encode, _Families(families)), media_type

    def _network(self) -> Iterator[Metric]:
        """Of every project, from memory."""
        trees = sorted(self._controller.trees.items())
        clients: list[tuple[tuple[str, ...], float]] = []
        for project, tree in trees:
            load = Tally(present.combiner for present in tree.directory.clients.values())
            servers = sorted({ROOT, *tree.directory.combiners} | load.keys())
            clients += [((project, server), load[server]) for server in servers]
        about = "Clients that are connected, by the server that they are below."
        yield _gauge("hansa_clients_connected", about, clients, "project", "combiner")
        about = "Combiners that are connected."
        yield _gauge(
            "hansa_combiners_connected", about, [((p,), len(tree.directory.combiners)) for p, tree in trees], "project"
        )
        about = "Sessions that run on the network now, and go by rounds."
        yield _gauge("hansa_sessions_running", about, [((p,), tree.training) for p, tree in trees], "project")
        about = "Running sessions that wait for a store which is away."
        yield _gauge("hansa_sessions_waiting_for_store", about, [((p,), tree.waiting) for p, tree in trees], "project")
        about = "Updates and sums at the controller that are received, or wait for a slot."
        yield _gauge("hansa_uploads_pending", about, [((p,), tree.hub.pending) for p, tree in trees], "project")


async def _answers(asked: Awaitable[None]) -> bool:
    """Whether a store answers in time."""
    with suppress(HansaError, TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            await asked
            return True
    return False


def _disk(data: Path) -> list[tuple[tuple[str, ...], float]]:
    """Bytes free and in all; nothing where the folder is gone, or its disk does not answer: no number says that."""
    with suppress(OSError):
        usage = shutil.disk_usage(data)
        return [((), usage.free), ((), usage.total)]
    return []


async def _read(store: MetadataStore, stored: _Stored) -> None:
    """Fill in what the store knows."""
    stored.projects = [project.id async for project in every(store, ProjectRecord, Query(""))]
    for project in stored.projects:
        newest = (await store.list(EventRecord, Query(project, sort="-id", limit=1))).items
        if newest:
            stored.newest[project] = newest[0].at
        for state in SessionState:
            where = Query(project, {"state": state.value}, limit=1)
            stored.sessions[project, state.value] = (await store.list(SessionRecord, where)).total
    stored.replicas = len((await store.replicas(LEADERSHIP))[1])
    for project in stored.projects:
        stored.nbytes[project] = await store.stored_bytes(project)


async def _look_at(objects: ObjectStore) -> None:
    """Ask for an object that is not there."""
    with suppress(NotFoundError):
        await objects.size(_NOBODYS)


def _of_store(stored: _Stored) -> Iterator[Metric]:
    """Nothing but what it has answered: a gauge that is away is no gauge of 0."""
    sessions = [(key, number) for key, number in sorted(stored.sessions.items())]
    yield _gauge("hansa_sessions", "Sessions that are stored, by state.", sessions, "project", "state")
    newest = [((project,), at) for project, at in stored.newest.items()]
    yield _gauge("hansa_newest_event_timestamp_seconds", "When the newest event happened.", newest, "project")
    nbytes = [((project,), number) for project, number in stored.nbytes.items()]
    yield _gauge("hansa_stored_bytes", "Bytes that a project holds on to, as its quota counts them.", nbytes, "project")
    waiting = [] if stored.replicas is None else [((), stored.replicas)]
    yield _gauge("hansa_replicas_waiting", "Controllers that wait to take over.", waiting)


def _lag(lag: float | None) -> Iterator[Metric]:
    values = [] if lag is None else [((), lag)]
    yield _gauge("hansa_event_lag_seconds", "The longest that followers waited for an event lately.", values)


def _gauge(name: str, about: str, values: Iterable[tuple[tuple[str, ...], float]], *labels: str) -> GaugeMetricFamily:
    made = GaugeMetricFamily(name, about, labels=labels)
    for each, value in values:
        made.add_metric(each, value)
    return made


def _build() -> dict[str, str]:
    return {"version": hansa.__version__, "python": platform.python_version()}
