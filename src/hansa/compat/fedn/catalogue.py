"""Hansa's records as FEDn's documents: what its REST API lists, whoever trained and by whatever API it was started."""

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from hansa.compat.fedn.active import Active
from hansa.compat.fedn.desk import helper_in
from hansa.compat.fedn.gateway import Gateway
from hansa.compat.fedn.guest import Guest
from hansa.compat.fedn.listing import Asked, Document, iso_time, select
from hansa.compat.fedn.sources import Source, listed
from hansa.errors import NotFoundError
from hansa.store.ports import Query
from hansa.store.records import (
    AnswerRecord,
    ClientRecord,
    CombinerRecord,
    ContributionRecord,
    EvaluationRecord,
    ModelRecord,
    NoteRecord,
    PredictionRecord,
    Record,
    RoundRecord,
    SampleRecord,
    SessionRecord,
    SessionState,
)
from hansa.wire.frames import ROOT
from hansa.wire.tls import address_of

__all__ = ["IDS", "Catalogue", "status_of"]

R = TypeVar("R", bound=Record)
Documents: TypeAlias = list[Document]

_PAGE: Final = 1000
_TASKS: Final = ("train", "evaluate", "program")
"""Of which a number is a metric; of none it is telemetry."""
_NAMESPACE: Final = uuid.UUID("5d0b4d5c-2f0b-4e0e-9d3a-6f3f0e6d7a11")
"""Of ids that FEDn wants for what hansa calls by several names."""
_STATES: Final = {
    SessionState.CREATED: "Created",
    SessionState.RUNNING: "Started",
    SessionState.FINISHED: "Finished",
    SessionState.FAILED: "Failed",
    SessionState.STOPPED: "Terminated",
}
_AS_THEY_ARE: Final = frozenset({"client_settings", "is_sl_inference", "selected_clients"})
"""Of a round's configuration what combiners are not told as text."""
_UNSET: Final = {"name": "", "role": "", "client_id": ""}

IDS: Final[Mapping[str, str]] = {
    "attributes": "attribute_id",
    "clients": "client_id",
    "combiners": "combiner_id",
    "metrics": "metric_id",
    "models": "model_id",
    "packages": "package_id",
    "predictions": "prediction_id",
    "rounds": "round_id",
    "runs": "run_id",
    "sessions": "session_id",
    "statuses": "status_id",
    "telemetry": "telemetry_id",
    "validations": "validation_id",
}
"""Collection → the field that is the id of its documents."""


class Catalogue:
    """The documents of one project."""

    def __init__(self, gateway: Gateway, address: tuple[str, int]) -> None:
        """address: host and port at which clients reach the gRPC services."""
        self._gateway = gateway
        self._active = Active(gateway.notes)
        self._host, self._port = address
        self._controller = gateway.controller
        self._project = gateway.project
        self._sources: Mapping[str, Callable[[], Awaitable[list[Source[Any]]]]] = {
            "attributes": self._attributes,
            "metrics": self._metrics,
            "statuses": self._statuses,
            "telemetry": self._telemetry,
            "validations": self._validations,
        }
        """Of those that clients tell, of which there are many."""
        self._makers: Mapping[str, Callable[[], Awaitable[Documents]]] = {
            "clients": self._clients,
            "combiners": self._combiners,
            "models": self._models,
            "packages": self._packages,
            "predictions": self._predictions,
            "rounds": self._rounds,
            "runs": self._runs,
            "sessions": self._sessions,
        }

    async def every(self, collection: str) -> Documents:
        """All documents of a collection, oldest first."""
        return (await self.find(collection, Asked({}, descending=False)))[1]

    async def find(self, collection: str, asked: Asked) -> tuple[int, Documents]:
        """(how many match in all, those of the page). Of what clients tell no more is read than need be."""
        if collection not in self._sources:
            return select(await self._makers[collection](), asked)
        await self._gateway.notes.settled()
        return await listed(self._controller.store, self._project, await self._sources[collection](), asked)

    async def get(self, collection: str, name: str) -> Document:
        """One document; raises `NotFoundError` in FEDn's words."""
        field = IDS[collection]
        for document in (await self.find(collection, Asked({field: name})))[1]:
            if document[field] == name:
                return document
        raise NotFoundError(f"Entity with id: {name} not found")

    async def helper_of(self, model: Document) -> str | None:
        """The helper of the session that made a model, else the active one; None: there is none."""
        if not model["session_id"]:
            return await self._active.helper()
        session = await self.get("sessions", model["session_id"])
        return str(session["session_config"]["helper_type"])

    # ── the network ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _clients(self) -> Documents:
        records = {record.name: record async for record in self._records(ClientRecord)}
        documents = [self._guest(guest, records.pop(guest.member.node, None)) for guest in self._gateway.guests]
        return documents + [_client(record) for record in records.values()]

    def _guest(self, guest: Guest, record: ClientRecord | None) -> Document:
        member = guest.member
        here = self._controller.tree(self._project).directory.clients
        seen = guest.heard_at or (record.last_seen if record is not None else member.added_at)
        return {
            "client_id": member.client_id,
            "combiner": (record.combiner if record is not None else "") or ROOT,
            "combiner_preferred": member.preferred or None,
            "ip": member.ip,
            "last_seen": _time(seen),
            "name": member.name,
            "package": member.package,
            "status": "online" if member.node in here else "offline" if record is not None else "available",
            **_times(member.added_at, seen),
        }

    async def _combiners(self) -> Documents:
        root = self._combiner(ROOT, self._host, self._port, "localhost", await self._began())
        below = [record async for record in self._records(CombinerRecord)]
        return [root, *(self._below(record) for record in below if record.connected)]

    def _below(self, record: CombinerRecord) -> Document:
        host, _, port = address_of(record.address)[1].rpartition(":")
        return self._combiner(record.name, host, int(port), record.parent or ROOT, record.first_seen)

    def _combiner(self, name: str, host: str, port: int, parent: str, since: float) -> Document:
        facts = {"address": host, "combiner_id": name, "fqdn": "", "ip": "", "name": name, "parent": parent}
        return facts | {"port": port, **_times(since)}

    async def _began(self) -> float:
        page = await self._controller.store.list(SessionRecord, Query(self._project, sort="created_at", limit=1))
        return page.items[0].created_at if page.items else 0.0

    # ── models and packages ──────────────────────────────────────────────────────────────────────────────────────

    async def _models(self) -> Documents:
        found: dict[str, Document] = {}
        async for record in self._records(ModelRecord):
            found.setdefault(
                record.id,
                {
                    "model": record.id,
                    "model_id": record.id,
                    "name": record.name or None,
                    "parent_model": record.parent,
                    "session_id": record.session or None,
                    **_times(record.created_at),
                },
            )
        return list(found.values())

    async def _packages(self) -> Documents:
        return [
            {
                **{key: value for key, value in note.data.items() if key not in {"digest", "checksum", "size"}},
                "package_id": note.name,
                **_times(note.created_at, note.updated_at),
            }
            async for note in self._gateway.notes.every("package")
        ]

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _sessions(self) -> Documents:
        notes = {note.name: note async for note in self._gateway.notes.every("session")}
        return [self._session(each, notes.get(each.id)) async for each in self._records(SessionRecord)]

    def _session(self, session: SessionRecord, note: NoteRecord | None) -> Document:
        told = dict(note.data) if note is not None else {}
        config = told.get("session_config")
        changed = max(filter(None, (session.created_at, session.started_at, session.ended_at)))
        return {
            "name": session.name,
            "seed_model_id": told.get("seed_model_id", session.seed_model),
            "session_config": {
                **(config if isinstance(config, dict) else _config(session)),
                "model_id": session.model or session.seed_model,
            },
            "session_id": session.id,
            "status": status_of(session, told.get("status")),
            **_times(session.created_at, changed),
        }

    async def _rounds(self) -> Documents:
        sessions = {each.id: each async for each in self._records(SessionRecord)}
        parts: dict[tuple[str, int], list[ContributionRecord]] = {}
        async for part in self._records(ContributionRecord):
            parts.setdefault((part.session, part.round), []).append(part)
        rounds = sorted([each async for each in self._records(RoundRecord)], key=lambda each: each.opened_at)
        return [
            self._round(each, sessions[each.session], parts.get((each.session, each.number), [])) for each in rounds
        ]

    def _round(self, record: RoundRecord, session: SessionRecord, parts: list[ContributionRecord]) -> Document:
        number = self._gateway.numbers.of(record.session, record.number)
        took = record.closed_at - record.opened_at
        config = {
            **_config(session),
            "client_settings": {},
            "is_sl_inference": False,
            "model_id": record.parent_model,
            "round_id": number,
            "rounds": 1,
            "selected_clients": None,
            "session_id": record.session,
            "task": "training",
        }
        timings = {"nr_aggregated_models": record.accepted, "time_model_aggregation": 0.0, "time_model_load": 0.0}
        data = {
            "aggregation_time": timings,
            "nr_expected_updates": len(parts),
            "nr_required_updates": session.spec.rules.quorum,
            "time_combination": took,
            "timeout": session.spec.rules.deadline,
        }
        combiner = {
            "config": {
                **{key: value if key in _AS_THEY_ARE else str(value) for key, value in config.items()},
                "_job_id": _id("job", record.id),
            },
            "data": data,
            "model_id": record.model,
            "name": ROOT,
            "round_id": number,
            "status": "Success",
            "time_exec_training": took,
        }
        reduce = {"time_aggregate_model": 0.0, "time_fetch_model": 0.0, "time_load_model": 0.0}
        return {
            "combiners": [combiner],
            "round_config": config,
            "round_data": {"reduce": reduce, "time_commit": 0.0},
            "round_id": number,
            "status": "Finished",
            **_times(record.opened_at, record.closed_at),
        }

    async def _runs(self) -> Documents:
        sessions = {each.id: each async for each in self._records(SessionRecord)}
        documents: Documents = []
        async for note in self._gateway.notes.every("run"):
            session, data = sessions.get(note.session), note.data
            ended = session.ended_at if session is not None and session.state is not SessionState.RUNNING else None
            documents.append(
                {
                    "completed_at": _time(ended) if ended else None,
                    "completed_at_model_id": session.model if session is not None and ended else None,
                    "model_id": data["model_id"],
                    "round_timeout": data["round_timeout"],
                    "rounds": data["rounds"],
                    "run_id": note.name,
                    "session_id": note.session,
                    **_times(note.created_at, ended or note.updated_at),
                }
            )
        return documents

    # ── what clients tell ────────────────────────────────────────────────────────────────────────────────────────

    def _noted(self, kind: str, field: str, make: Callable[[NoteRecord], Document]) -> Source[NoteRecord]:
        """Documents that clients have told. field: their id."""
        columns = {field: "name", "session_id": "session"}
        known = frozenset(self._gateway.numbers.sessions)
        return Source(NoteRecord, _each(make), "created_at", {"kind": kind}, columns, known)

    async def _statuses(self) -> list[Source[Any]]:
        return [self._noted("status", "status_id", _status)]

    async def _validations(self) -> list[Source[Any]]:
        guests = {guest.member.node for guest in self._gateway.guests}
        others = [record.name async for record in self._records(ClientRecord) if record.name not in guests]
        sources: list[Source[Any]] = [self._noted("validation", "validation_id", _measured)]
        if others:
            columns = {"session_id": "session", "model_id": "model"}
            sources.append(Source(EvaluationRecord, _each(_evaluation), "at", {"client": others}, columns))
        return sources

    async def _predictions(self) -> Documents:
        asked = {each.id: each async for each in self._records(PredictionRecord)}
        return [
            {
                "correlation_id": None,
                "data": each.document,
                "meta": None,
                "model_id": asked[each.prediction].model,
                "prediction_id": asked[each.prediction].name,
                "receiver": {"client_id": None, "name": ROOT, "role": "COMBINER"},
                "sender": self._sender(each.client),
                "timestamp": iso_time(each.at),
                **_times(each.at),
            }
            async for each in self._records(AnswerRecord)
            if each.document is not None and each.prediction in asked
        ]

    async def _metrics(self) -> list[Source[Any]]:
        columns = {"key": "name", "session_id": "session"}
        return [Source(SampleRecord, self._measurements, "at", {"task": _TASKS}, columns)]

    async def _measurements(self, samples: Sequence[SampleRecord]) -> Documents:
        rounds: dict[tuple[str, int], RoundRecord] = {}
        for session in sorted({sample.session for sample in samples}):
            async for each in self._records(RoundRecord, session=session):
                rounds[each.session, each.number] = each
        return [
            {
                "key": sample.name,
                "metric_id": _id("metric", sample.id),
                "model_id": found.parent_model if (found := rounds.get((sample.session, sample.round))) else None,
                "round_id": self._gateway.numbers.of(sample.session, sample.round),
                "sender": self._sender(sample.client),
                "session_id": sample.session,
                "step": sample.step,
                "timestamp": iso_time(sample.at),
                "value": sample.value,
                **_times(sample.at),
            }
            for sample in samples
        ]

    async def _telemetry(self) -> list[Source[Any]]:
        own = Source(SampleRecord, _each(self.telemetry_of), "at", {"task": ""}, {"key": "name"})
        return [own, self._noted("telemetry", "telemetry_id", partial(_posted, "telemetry_id"))]

    def telemetry_of(self, sample: SampleRecord) -> Document:
        """The document of a number that a client's machine tells."""
        return {
            "key": sample.name,
            "sender": self._sender(sample.client),
            "telemetry_id": _id("telemetry", sample.id),
            "timestamp": iso_time(sample.at),
            "value": sample.value,
            **_times(sample.at),
        }

    async def _attributes(self) -> list[Source[Any]]:
        return [self._noted("attribute", "attribute_id", partial(_posted, "attribute_id"))]

    def _sender(self, node: str) -> Document:
        member = next((guest.member for guest in self._gateway.guests if guest.member.node == node), None)
        name, client_id = (member.name, member.client_id) if member is not None else (node, node)
        return {"client_id": client_id, "name": name, "role": "CLIENT"}

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _records(self, kind: type[R], **where: str) -> AsyncIterator[R]:
        offset, total = 0, 1
        while offset < total:
            page = await self._controller.store.list(kind, Query(self._project, where, limit=_PAGE, offset=offset))
            for record in page.items:
                yield record
            offset, total = offset + _PAGE, page.total


def _each(make: Callable[[R], Document]) -> Callable[[Sequence[R]], Awaitable[Documents]]:
    async def made(rows: Sequence[R]) -> Documents:
        return [make(row) for row in rows]

    return made


def status_of(session: SessionRecord, told: object = None) -> str:
    """A session's state in FEDn's words. told: what a script has set, before it was started."""
    if session.state is SessionState.CREATED and isinstance(told, str):
        return told
    return _STATES[session.state]


def _config(session: SessionRecord) -> dict[str, Any]:
    spec = session.spec
    return {
        "aggregator": spec.algorithm,
        "aggregator_kwargs": None,
        "buffer_size": -1 if spec.rules.enough is None else spec.rules.enough,
        "clients_required": spec.rules.min_clients,
        "delete_models_storage": True,
        "helper_type": helper_in(spec),
        "model_id": session.seed_model,
        "requested_clients": spec.rules.count,
        "round_timeout": int(spec.rules.deadline),
        "rounds": None,
        "server_functions": None,
        "validate": spec.evaluation.every > 0 and spec.evaluation.clients,
    }


def _client(record: ClientRecord) -> Document:
    return {
        "client_id": record.name,
        "combiner": record.combiner or ROOT,
        "combiner_preferred": None,
        "ip": "",
        "last_seen": _time(record.last_seen),
        "name": record.name,
        "package": "local",
        "status": "online" if record.connected else "offline",
        **_times(record.first_seen, record.last_seen),
    }


def _evaluation(record: EvaluationRecord) -> Document:
    return {
        "correlation_id": None,
        "data": json.dumps(dict(record.metrics)),
        "meta": None,
        "model_id": record.model,
        "receiver": {"client_id": None, "name": ROOT, "role": "COMBINER"},
        "sender": {"client_id": record.client, "name": record.client, "role": "CLIENT"},
        "session_id": record.session,
        "timestamp": iso_time(record.at),
        "validation_id": _id("validation", record.id),
        **_times(record.at),
    }


def _status(note: NoteRecord) -> Document:
    names = ("status", "log_level", "data", "correlation_id", "type", "extra", "session_id")
    defaults = {"log_level": "NONE", "type": "LOG"}
    return {
        **{name: note.data.get(name) or defaults.get(name) for name in names},
        **_told("status_id", note),
        "sender": note.data.get("sender"),
    }


def _measured(note: NoteRecord) -> Document:
    """A validation."""
    names = ("correlation_id", "data", "meta", "model_id", "session_id")
    told = {name: note.data.get(name) or None for name in names}
    said = note.data.get("receiver")
    receiver = {"client_id": None, "name": ROOT, "role": "COMBINER", **(said if isinstance(said, dict) else {})}
    return {**told, "receiver": receiver, "sender": note.data.get("sender"), **_told("validation_id", note)}


def _posted(field: str, note: NoteRecord) -> Document:
    """A key and a value, from a client or by REST."""
    sender = note.data.get("sender")
    return {
        "key": note.data.get("key"),
        "value": note.data.get("value"),
        "sender": {**_UNSET, **sender} if isinstance(sender, dict) else None,
        **_told(field, note),
    }


def _told(field: str, note: NoteRecord) -> dict[str, Any]:
    return {
        field: note.name,
        "timestamp": note.data.get("timestamp") or None,
        **_times(note.created_at, note.updated_at),
    }


def _times(made: float, changed: float | None = None) -> dict[str, datetime]:
    return {"committed_at": _time(made), "updated_at": _time(made if changed is None else changed)}


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _id(kind: str, name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{kind}/{name}"))
