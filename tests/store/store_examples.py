"""Rows that the tests of this room share with the processes that they kill."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from hansa.messages import EvaluationRules, Kind, RoundRules, RunSpec, TransformSpec
from hansa.store.audit import chained
from hansa.store.link import linked
from hansa.store.ports import MetadataStore, Query, RoundCommit
from hansa.store.records import (
    AccountRecord,
    AnswerRecord,
    AuditRecord,
    ClientRecord,
    CombinerRecord,
    ContributionRecord,
    EvaluationRecord,
    EventRecord,
    InstallationRecord,
    MemberRecord,
    MetricRecord,
    ModelRecord,
    NodeRecord,
    NoteRecord,
    PackageRecord,
    PredictionRecord,
    ProjectRecord,
    ProjectRole,
    Record,
    RoundRecord,
    SampleRecord,
    SessionRecord,
    SessionState,
    SubjectRecord,
    TokenRecord,
)

PROJECT = "harbour"
Reopened = Callable[[], Awaitable[MetadataStore]]
"""A store over the rows of another."""
SIGNER = "ed25519:" + "3a" * 32


def digest(number: int) -> str:
    """A name in the form of a content address."""
    return f"{number:064x}"


def a_session(key: str = "s1", project: str = PROJECT, **changes: object) -> SessionRecord:
    session = SessionRecord(key, project, "digits", RunSpec(project=project), SessionState.RUNNING, created_at=1.0)
    return replace(session, **changes)


def a_commit(session: SessionRecord, number: int, clients: int = 3, model: str = "", parent: str = "") -> RoundCommit:
    """Round `number` of a session: `clients` accepted updates of 1, 2, 3 … examples, and one rejected.

    Unless told otherwise the model of round n is `digest(n)`, made from `digest(n − 1)`.
    """
    model, parent = model or digest(number), parent or digest(number - 1)
    key, project = f"{session.id}/{number}", session.project
    contributions = tuple(
        ContributionRecord(
            f"{key}/client-{i}", project, session.id, number, f"client-{i}", "accepted", i + 1, digest(i)
        )
        for i in range(clients)
    )
    refused = ContributionRecord(f"{key}/x", project, session.id, number, "x", "rejected", reason="not-finite: w")
    return RoundCommit(
        session=replace(session, round=number, model=model),
        round=RoundRecord(
            key,
            project,
            session.id,
            number,
            parent_model=parent,
            model=model,
            state=digest(1000 + number),
            accepted=clients,
            rejected=1,
            failed=0,
            missing=0,
            weight=sum(range(1, clients + 1)),
            opened_at=10.0 * number,
            closed_at=10.0 * number + 5,
            metrics={"loss": 1 / (1 + number)},
        ),
        model=ModelRecord(model, project, session.id, number, parent, size=4096, created_at=10.0 * number),
        contributions=(*contributions, refused),
        metrics=(
            MetricRecord(f"{key}/train/loss", project, session.id, number, Kind.TRAIN, "loss", 0.5, 6),
            MetricRecord(f"{key}/evaluate/accuracy", project, session.id, number, Kind.EVALUATE, "accuracy", 0.9, 6),
        ),
        events=(
            EventRecord(0, project, session.id, "round.opened", f"round {number} opened", 10.0 * number),
            EventRecord(0, project, session.id, "round.committed", f"round {number} committed", 10.0 * number + 5),
        ),
    )


async def every(store: MetadataStore, kind: type[Record], project: str = PROJECT) -> list[Record]:
    """All rows of a kind, page by page."""
    rows: list[Record] = []
    while True:
        page = await store.list(kind, Query(project, limit=1000, offset=len(rows)))
        rows.extend(page.items)
        if len(rows) >= page.total:
            return rows


def one_of_each(project: str = PROJECT) -> Sequence[Record]:
    """A record of every kind, with every optional field filled in and awkward values where values are free."""
    spec = RunSpec(
        name="ünïcødé 🚢",
        project=project,
        algorithm="fedadam",
        algorithm_options={"learning_rate": 0.01, "steps": 7, "nesterov": True, "nothing": None},
        aggregator_options={"uniform": True},
        transforms=(TransformSpec("clip", {"norm": float("inf"), "$odd": (1,)}), TransformSpec("quantize")),
        seed=2**62,
        rules=RoundRules(selection="fraction", fraction=0.25, enough=3, deadline=float("inf")),
        evaluation=EvaluationRules(every=0, central=False),
        config={"hidden": (64, 64), "nested": {"list": [1, 1.0, "1", None, {"$deep": [True]}]}, "big": 2**80},
    )
    return (
        InstallationRecord("5a" * 16, project, SIGNER, 1.0, digest(14)),
        ProjectRecord(project, "The harbour", 0.1, max_sessions=3, max_storage=2**40, max_clients=0),
        SessionRecord(
            "s1",
            project,
            "digits",
            spec,
            SessionState.FAILED,
            created_at=1.5,
            package=digest(1),
            seed_model=digest(2),
            round=3,
            model=digest(3),
            cause="2 clients reported, 3 are needed",
            started_at=2.5,
            ended_at=3.5,
            keep="last 3, best loss min",
        ),
        RoundRecord(
            "s1/1",
            project,
            "s1",
            1,
            digest(0),
            digest(1),
            digest(9),
            1,
            2,
            3,
            4,
            5,
            6.5,
            7.5,
            {"loss": 0.5},
            state_pruned_at=11.5,
            state_size=2**33,
            broadcast=digest(8),
            run=digest(11),
            journal=digest(12),
            signer=SIGNER,
            signature="9c" * 64,
            aggregate=digest(13),
            aggregate_size=2**34,
            aggregate_weight=2**40,
            aggregate_pruned_at=12.5,
        ),
        ContributionRecord(
            "s1/1/c",
            project,
            "s1",
            1,
            "c",
            "rejected",
            2**62,
            digest(7),
            "weight: 0",
            {"loss": 0.1, "n": 3.0},
            SIGNER,
            "7d" * 64,
        ),
        EvaluationRecord("s1/1/c", project, "s1", 1, "c", 17, digest(1), 9.5, {"acc": 0.3}, SIGNER, "5e" * 64),
        ModelRecord(digest(1), project, "s1", 1, digest(0), 4096, 8.5, "first", 9.5, "last 1"),
        MetricRecord("s1/1/acc", project, "s1", 1, Kind.EVALUATE, "acc", 0.1 + 0.2, 17, "central", 9.5),
        linked(
            None,
            EventRecord(1, project, "s1", "update.rejected", "a's update: NaN in w", 1.0, {"client": "a", "weight": 3}),
        ),
        SampleRecord("s1/3/train/a/loss/7", project, "s1", 3, "train", "a", "loss", 7, 0.25, 6.5),
        PredictionRecord("p1", project, "w", digest(3), digest(1), spec, SessionState.STOPPED, 1.5, 3, 2, "late", 9.0),
        AnswerRecord("p1/a", project, "p1", "a", 2.5, '{"ünï": [1, null]}', "none"),
        ClientRecord(f"{project}/a", project, "a", "combiner-1", connected=True, first_seen=1.0, last_seen=2.0),
        CombinerRecord(f"{project}/m", project, "m", "", "[::1]:7", connected=False, first_seen=1.0, last_seen=2.0),
        PackageRecord(digest(4), project, "app", 123, 4.0),
        NodeRecord(f"{project}/ward", project, "ward", "client", "ed25519:" + "0f" * 32, "jti-1", 1.0, grant="9f" * 16),
        NoteRecord("status/7", project, "status", "7", "s1", 1.0, 2.0, {"sender": {"name": "a"}, "step": None}),
        TokenRecord("jti", project, "nightly", "viewer", 1.0, expires_at=2.0, revoked=True, account="ada"),
        AccountRecord("ada", project, 1.0, admin=True, disabled=True, password="$argon2id$x"),  # noqa: S106  # no hash
        MemberRecord("ada", project, ProjectRole.DATA_SCIENTIST, 1.0, removed=True),
        SubjectRecord("https://id#7", project, "ada", "https://id", "7", 1.0, removed=True),
        chained(None, AuditRecord("", project, 0, 1.0, "ada", "member.add", "bén", "done", "viewer")),
    )


KINDS = [type(record) for record in one_of_each()]


async def fill(store: MetadataStore, project: str = PROJECT) -> None:
    """Store one record of each kind."""
    await store.put(*(unnumbered(record) for record in one_of_each(project)))


def unnumbered(record: Record) -> Record:
    """As it is before it is stored."""
    match record:
        case EventRecord():
            return replace(record, id=0, link=None)
        case AuditRecord():
            return replace(record, id="", number=0, link="")
        case _:
            return record
