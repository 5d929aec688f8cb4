"""Is the record of a session what it was when it was written, and did everybody sign what is counted as theirs?

The same checks for the server that keeps the record and for a third party that has a bundle of it. What is checked:

- the rounds form one chain, whose links cover every model, contribution and number; the server has signed each link;
- the session's events form one chain, which the links of the rounds and the end of the session name;
- each client has signed the update that is counted as its own, with the model that it was made from, and the
  evaluation that is shown as its own; nothing that was made from one model is counted twice;
- where a client has changed its key, both keys have signed that;
- merged numbers are what the reports of the clients come to;
- the model trail says what the rounds say, and every model, state and aggregate that is there has the bytes of its
  digest;
- each model that can be computed anew from these is the one that was committed (`hansa.evidence.recomputation`).
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from hansa.errors import CorruptionError, InputError
from hansa.evidence.findings import Known, Verification
from hansa.evidence.receipts import Receipt
from hansa.evidence.record import Evidence
from hansa.messages import Kind, Signature, Value, merge_metrics
from hansa.statements import (
    Part,
    end_statement,
    handover_statement,
    report_statement,
    round_statement,
    update_statement,
)
from hansa.store.link import ACCEPTED, run_digest, verify_chain, verify_events
from hansa.store.records import ContributionRecord, EvaluationRecord, EventRecord, HandoverRecord, RoundRecord
from hansa.wire.frames import CENTRAL
from hansa.wire.node_key import holds

__all__ = ["verify_record"]

_Key: TypeAlias = tuple[int, Kind, str]
"""Round, kind, and client; see `MetricRecord`."""
_Numbers: TypeAlias = Mapping[str, tuple[float, int]]
"""By name: the value, and on how many examples."""
_ENDS: Final = frozenset({"session.finished", "session.failed", "session.stopped"})


def verify_record(evidence: Evidence, known: Known | None = None) -> Verification:
    """Check all rows of a session, and none of the bytes that they name.

    Raises `CorruptionError` that names the first thing that is not as it should be.
    """
    known = known if known is not None else Known()
    verify_chain(evidence.rounds, evidence.contributions, known.head)
    _check_session(evidence)
    _check_trail(evidence)
    _check_handovers(evidence)
    journal = _links(evidence)
    servers: dict[str, None] = {}
    clients: dict[str, dict[str, None]] = {}
    updates = unsigned = 0
    by_round: dict[int, list[ContributionRecord]] = {}
    for part in evidence.contributions:
        if part.outcome == ACCEPTED:
            by_round.setdefault(part.round, []).append(part)
    for row in evidence.rounds:
        accepted = by_round.get(row.number, [])
        if row.broadcast is None:
            unsigned += len(accepted)
            continue
        _check_round(evidence, row, accepted, journal)
        servers.setdefault(row.signer or "")
        for part in accepted:
            clients.setdefault(part.client, {}).setdefault(_checked_update(evidence, row, part))
            updates += 1
    reports = 0
    signed = {row.number for row in evidence.rounds if row.broadcast is not None}
    for report in evidence.evaluations:
        if report.round in signed:
            clients.setdefault(report.client, {}).setdefault(_checked_report(evidence, report))
            reports += 1
        else:
            unsigned += 1
    _check_metrics(evidence, signed)
    for end in _signed_ends(evidence):
        servers.setdefault(_check_end(evidence, end, journal))
    _check_over(evidence)
    _check_known(evidence, known, servers, clients)
    return Verification(
        session=evidence.session.id,
        rounds=len(evidence.rounds),
        contributions=len(evidence.contributions),
        objects=0,
        bytes=0,
        head=evidence.rounds[-1].link if evidence.rounds else "",
        pruned=len(evidence.objects),
        updates=updates,
        reports=reports,
        unsigned=unsigned,
        events=len(evidence.events),
        handovers=len(evidence.handovers),
        sealed=_is_sealed(evidence),
        servers=tuple(servers),
        clients={name: tuple(keys) for name, keys in sorted(clients.items())},
        recomputed=0,
        not_recomputed=len(evidence.rounds),
        obstacle="",
    )


def _check_session(evidence: Evidence) -> None:
    """The session's own row agrees with its rounds."""
    record, chain = evidence.session, evidence.rounds
    if record.round != len(chain):
        raise CorruptionError(f"session {record.name} is at round {record.round}, but {len(chain)} rounds are recorded")
    rows = [
        *((row.project, row.session) for row in chain),
        *((row.project, row.session) for row in evidence.contributions),
        *((row.project, row.session) for row in evidence.evaluations),
        *((row.project, row.session) for row in evidence.metrics),
        *((row.project, row.session) for row in evidence.models),
        *((row.project, row.session) for row in evidence.events),
    ]
    if any(where != (record.project, record.id) for where in rows):
        raise CorruptionError(f"the record of session {record.name} holds rows of another session, or project")
    if not chain:
        return
    if chain[0].parent_model != (record.seed_model or ""):
        raise CorruptionError(f"round 1 of session {record.name} starts from another model than the session's seed")
    if chain[-1].model != record.model:
        raise CorruptionError(f"the model of session {record.name} is not that of its last round")


def _check_trail(evidence: Evidence) -> None:
    """The models that the trail shows are those of the rounds."""
    made = {row.number: (row.model, row.parent_model or None) for row in evidence.rounds}
    shown = {row.round: (row.id, row.parent) for row in evidence.models}
    for number in sorted(made.keys() | shown.keys()):
        if made.get(number) != shown.get(number):
            raise CorruptionError(
                f"the model trail of session {evidence.session.name} does not show what round {number} has made"
            )


def _check_handovers(evidence: Evidence) -> None:
    """Both keys have signed each change of a client's key, and none has two before it, or after it."""
    for ends in (
        Counter((each.node, each.former) for each in evidence.handovers),
        Counter((each.node, each.key) for each in evidence.handovers),
    ):
        for (node, key), count in ends.items():
            if count > 1:
                raise CorruptionError(f"the key {key[:80]} of {node[:100]} is in two handovers, which a node's is not")
    for each in evidence.handovers:
        statement = handover_statement(evidence.session.project, each.node, each.former, each.key)
        signed = Signature(each.former, each.by_former), Signature(each.key, each.by_key)
        if each.project != evidence.session.project or not all(holds(one, statement) for one in signed):
            raise CorruptionError(f"{each.node[:100]} is said to have changed its key, which both keys have not signed")


def _of_one(key: str, handovers: Sequence[HandoverRecord]) -> frozenset[str]:
    """A key, and all that it has come from or was handed over to."""
    found = {key}
    for way in ({each.former: each.key for each in handovers}, {each.key: each.former for each in handovers}):
        at = key
        while (at := way.get(at, "")) and at not in found:
            found.add(at)
    return frozenset(found)


def _links(evidence: Evidence) -> frozenset[str]:
    """The links of the session's events, which form one chain."""
    ids = [event.id for event in evidence.events]
    if ids != sorted(set(ids)):
        raise CorruptionError(f"the events of session {evidence.session.name} are not in their order")
    verify_events(evidence.events)
    return frozenset(event.link for event in evidence.events if event.link is not None) | {""}


def _check_round(
    evidence: Evidence, row: RoundRecord, accepted: Sequence[ContributionRecord], journal: frozenset[str]
) -> None:
    where = f"round {row.number} of session {evidence.session.name}"
    if not holds(Signature(row.signer or "", row.signature or ""), round_statement(row.link)):
        raise CorruptionError(f"the server's signature of {where} does not hold")
    if row.run != run_digest(evidence.session):
        raise CorruptionError(f"{where} was of another run than the session's specification says")
    if row.journal not in journal:
        raise CorruptionError(f"{where} names an event of the session that is lost or was changed")
    merged = merge_metrics((part.metrics, part.num_examples) for part in accepted)
    if not _same(row.metrics, {name: each.values[name] for name, each in merged.items()}):
        raise CorruptionError(f"the metrics of {where} are not what those of its contributors come to")


def _checked_update(evidence: Evidence, row: RoundRecord, part: ContributionRecord) -> str:
    """The signer. Of an asynchronous run, what it has signed is of the round whose model it was given."""
    given = row if part.base is None else evidence.rounds[part.base - 1]
    where = Part(row.project, row.session, given.number, part.client, given.broadcast or "")
    said = update_statement(where, part.digest, part.num_examples, part.metrics)
    if not holds(Signature(part.signer or "", part.signature or ""), said):
        raise CorruptionError(f"round {row.number} counts an update of {part.client} that {part.client} has not signed")
    return part.signer or ""


def _checked_report(evidence: Evidence, report: EvaluationRecord) -> str:
    """The signer."""
    chain = evidence.rounds
    evaluated = chain[report.round - 1].model if 1 <= report.round <= len(chain) else ""
    if report.model != evaluated:
        raise CorruptionError(f"{report.client} has evaluated another model than that of round {report.round}")
    where = Part(report.project, report.session, report.round, report.client, report.model)
    said = report_statement(where, report.num_examples, report.metrics)
    if not holds(Signature(report.signer or "", report.signature or ""), said):
        raise CorruptionError(f"the evaluation of {report.client} after round {report.round} is not what it has signed")
    return report.signer or ""


def _check_metrics(evidence: Evidence, signed: Collection[int]) -> None:
    """Each number that is shown of a round is what is recorded of it elsewhere. signed: the rounds that are."""
    shown: dict[_Key, dict[str, tuple[float, int]]] = {}
    for metric in evidence.metrics:
        if metric.round in signed:
            one = shown.setdefault((metric.round, metric.kind, metric.client), {})
            one[metric.name] = (metric.value, metric.num_examples)
    expected = dict(_expected(evidence, signed))
    for key in sorted({*shown, *expected}):
        number, kind, client = key
        if client == CENTRAL:
            continue
        if not _same_pairs(shown.get(key, {}), expected.get(key, {})):
            whose = f"of {client}" if client else "merged over the clients"
            raise CorruptionError(f"the metrics of round {number} ({kind}), {whose}, are not what was reported")
    for event in evidence.events:
        told = event.data.get("round")
        if event.kind == "round.evaluated" and isinstance(told, int) and told in signed:
            _check_evaluated(told, event.data.get("metrics"), shown)


def _expected(evidence: Evidence, signed: Collection[int]) -> Iterator[tuple[_Key, _Numbers]]:
    for row in evidence.rounds:
        if row.number in signed and row.metrics:
            values = {name: (value, row.weight) for name, value in row.metrics.items()}
            yield (row.number, Kind.TRAIN, ""), values
    by_round: dict[int, list[EvaluationRecord]] = {}
    for report in (report for report in evidence.evaluations if report.round in signed):
        by_round.setdefault(report.round, []).append(report)
        if report.metrics:
            values = {name: (value, report.num_examples) for name, value in report.metrics.items()}
            yield (report.round, Kind.EVALUATE, report.client), values
    for number, reports in by_round.items():
        merged = merge_metrics((report.metrics, report.num_examples) for report in reports)
        if merged:
            values = {name: (each.values[name], each.num_examples) for name, each in merged.items()}
            yield (number, Kind.EVALUATE, ""), values


def _check_evaluated(number: int, told: Value, shown: Mapping[_Key, _Numbers]) -> None:
    """What was evaluated beside the server has no signature of its own: its event tells it, in the chain."""
    both: dict[str, float] = {}
    for client in ("", CENTRAL):
        pairs = shown.get((number, Kind.EVALUATE, client), {})
        both |= {name: value for name, (value, _) in pairs.items()}
    said = told if isinstance(told, Mapping) else {"": told}
    numbers = {name: value for name, value in said.items() if isinstance(value, float)}
    if len(numbers) < len(said) or not _same(numbers, both):
        raise CorruptionError(f"the metrics of round {number} are not those that its event tells")


def _signed_ends(evidence: Evidence) -> list[EventRecord]:
    return [event for event in evidence.events if event.kind in _ENDS and "signature" in event.data]


def _check_end(evidence: Evidence, event: EventRecord, journal: Collection[str]) -> str:
    """The signer. The server has signed how a session ended, and after what."""
    said = {name: str(event.data.get(name, "")) for name in ("head", "journal", "signer", "signature")}
    state = event.kind.removeprefix("session.")
    statement = end_statement(
        event.project, event.session, state=state, cause=event.message, head=said["head"], journal=said["journal"]
    )
    if not holds(Signature(said["signer"], said["signature"]), statement):
        raise CorruptionError(f"the server's signature of the end of session {evidence.session.name} does not hold")
    if said["journal"] not in journal or said["head"] not in {"", *(row.link for row in evidence.rounds)}:
        raise CorruptionError(f"session {evidence.session.name} ended after rounds or events that are lost")
    return said["signer"]


def _is_sealed(evidence: Evidence) -> bool:
    """Whether the session is over, and its last end is the one that the server has signed."""
    session, ends = evidence.session, [event for event in evidence.events if event.kind in _ENDS]
    if not ends or "signature" not in ends[-1].data:
        return False
    head = evidence.rounds[-1].link if evidence.rounds else ""
    told = (ends[-1].kind, ends[-1].message, ends[-1].data.get("head"))
    return told == (f"session.{session.state}", session.cause, head)


def _check_over(evidence: Evidence) -> None:
    """A session that is said to be over has ended so, where its rounds are signed."""
    session, chain = evidence.session, evidence.rounds
    is_over = f"session.{session.state}" in _ENDS
    if is_over and chain and chain[-1].broadcast is not None and not _is_sealed(evidence):
        raise CorruptionError(
            f"session {session.name} is said to have {session.state} ({session.cause[:80]}), "
            "which the server has not signed"
        )


def _check_known(
    evidence: Evidence, known: Known, servers: Collection[str], clients: Mapping[str, Collection[str]]
) -> None:
    strangers = sorted(set(servers) - set(known.server)) if known.server else []
    if strangers:
        raise CorruptionError(f"{strangers[0]} has signed for the server, which is none of the keys that you gave")
    for name, key in known.clients.items():
        own = _of_one(key, [each for each in evidence.handovers if each.node == name])
        others = sorted(set(clients.get(name, ())) - own)
        if others:
            raise CorruptionError(f"{others[0]} has signed for {name}, whose key is {key}")
    links = {row.number: row.link for row in evidence.rounds}
    parts = {(part.round, part.client): part for part in evidence.contributions if part.outcome == ACCEPTED}
    for receipt in known.receipts:
        if receipt.session == evidence.session.id:
            _check_receipt(receipt, links.get(receipt.round), parts.get((receipt.round, receipt.client)))


def _check_receipt(receipt: Receipt, link: str | None, part: ContributionRecord | None) -> None:
    if not holds(Signature(receipt.signer, receipt.signature), round_statement(receipt.link)):
        raise InputError(
            f"the receipt of {receipt.client} for round {receipt.round} is not one that a server has signed"
        )
    if receipt.link != link:
        raise CorruptionError(
            f"round {receipt.round} is another one than the server has told {receipt.client}: its link was "
            f"{receipt.link}"
        )
    counted = (part.digest, part.num_examples) if part is not None else None
    if counted != (receipt.update, receipt.num_examples):
        raise CorruptionError(
            f"round {receipt.round} does not count the update of {receipt.client} for which it has a receipt"
        )


def _same(left: Mapping[str, float], right: Mapping[str, float]) -> bool:
    return left.keys() == right.keys() and all(_equal(left[name], right[name]) for name in left)


def _same_pairs(left: _Numbers, right: _Numbers) -> bool:
    return left.keys() == right.keys() and all(
        _equal(left[name][0], right[name][0]) and left[name][1] == right[name][1] for name in left
    )


def _equal(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))
