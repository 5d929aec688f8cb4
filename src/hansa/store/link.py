"""The chains of hashes over a session: of its rounds, and of its events.

A round's link ties it to its models, to what became of everybody who was invited, and to the round before it.
`link = blake3(encoding)`, in hexadecimal digits, where the encoding is a statement as in `hansa.statements`:

    text("hansa round link 2")
    text(previous link, "" for the first round)
    text(project)  text(session)  number(number)  text(run)
    text(parent model)  text(model)  text(state)  text(broadcast)
    real(opened_at)  real(closed_at)  reals(metrics)
    text(journal)
    number(how many were invited)
    for each of them, by the bytes of its name:
        text(client)  text(outcome)  number(num_examples)  text(digest of its update)  text(reason)  reals(metrics)
        text(signer)  text(signature)

Of a round that has kept what it added to the model, the first line is `text("hansa round link 3")`, and the encoding
ends with `text(aggregate)  number(aggregate_weight)`.

Of a round of an asynchronous run, whose contributions have a `base`, the first line is `text("hansa round link 4")`;
each of them ends with `number(base)`, and they are in the order of their names and then of their bases; the encoding
ends with `text(aggregate, "" for none)  number(aggregate_weight, 0 for none)`.

`run` is the blake3 of what the session runs: `json({"package", "seed_model", "spec"})`, where the specification is
without the fields that have their default. `journal` is the link of the session's newest event. An event's link is the
blake3 of

    text("hansa event link 1")  text(previous link, "" for the first event)
    text(project)  text(session)  text(kind)  text(message)  real(at)  text(json(data))

and `json` writes keys in the order of their characters, no blanks, and characters as they are.

Rounds that were committed before clients signed have no `broadcast`, and an older encoding: without project, run and
all that is after the state, and of those who were accepted the name, num_examples and digest
(`text("hansa round link 1")`).

No two different rounds have the same encoding, and a program in any language can verify a chain offline.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

from blake3 import blake3

from hansa.errors import CorruptionError, InputError
from hansa.messages import RunSpec
from hansa.statements import number, real, reals, text
from hansa.store.documents import encode_value, spec_to_json
from hansa.store.records import ContributionRecord, EventRecord, RoundRecord, SessionRecord

__all__ = ["ACCEPTED", "event_link", "linked", "round_link", "run_digest", "verify_chain", "verify_events"]

ACCEPTED: Final = "accepted"
"""The outcome of a contribution that is in the sum."""
_LARGEST: Final = 2**64


def round_link(previous: str, record: RoundRecord, contributions: Iterable[ContributionRecord]) -> str:
    """The link of a round, 64 hexadecimal digits; the record's own `link` is not looked at.

    previous: the link of the round before, empty for the first; contributions: the round's, in any order. Raise
    `InputError` when a client is in it twice.
    """
    parts = sorted(contributions, key=lambda part: (part.client.encode(), part.base or 0))
    for left, right in pairwise([part for part in parts if part.outcome == ACCEPTED]):
        if left.client == right.client:
            raise InputError(f"round {record.number} of session {record.session} counts {left.client!r} twice")
    encoded = (
        _former_encoding(previous, record, parts) if record.broadcast is None else _encoding(previous, record, parts)
    )
    return blake3(b"".join(encoded)).hexdigest()


def run_digest(session: SessionRecord) -> str:
    """The hash of what a session runs: its specification, its code and the model that it starts from."""
    defaults = spec_to_json(RunSpec())
    spec = _sparse(spec_to_json(session.spec), defaults)
    return blake3(_json({"package": session.package, "seed_model": session.seed_model, "spec": spec})).hexdigest()


def event_link(previous: str, event: EventRecord) -> str:
    """The link of a session's event; its own `link` is not looked at. previous: of the session's event before."""
    where = text("hansa event link 1") + text(previous) + text(event.project) + text(event.session)
    said = text(event.kind) + text(event.message) + real(event.at)
    data = _json(encode_value(event.data))
    return blake3(where + said + number(len(data)) + data).hexdigest()


def linked(previous: str | None, event: EventRecord) -> EventRecord:
    """A new event of a session as it follows the newest one. previous: that one's link, None where there is none."""
    return replace(event, link=event_link(previous or "", event))


def verify_events(events: Iterable[EventRecord]) -> str:
    """The link of a session's last event. events: all of the session's, oldest first.

    Raise `CorruptionError` that names the first event that was changed, or before which one is lost. Events that were
    stored before they had links come first, and are not covered.
    """
    link = ""
    for event in events:
        if event.link is None and not link:
            continue
        if event.link != event_link(link, event):
            raise CorruptionError(
                f"event {event.id} ({event.kind}) of session {event.session} was changed, or one before it was lost"
            )
        link = event.link
    return link


def verify_chain(
    rounds: Iterable[RoundRecord], contributions: Iterable[ContributionRecord], head: str | None = None
) -> None:
    """Raise `CorruptionError`, naming the first broken round, unless the rounds of one session form one whole chain.

    rounds, contributions: all of the session's, in any order. head: the newest link that the caller has seen
    elsewhere; with it a restored backup that lacks the last rounds is recognised too.
    """
    by_round: dict[int, list[ContributionRecord]] = {}
    every = list(contributions)
    for contribution in every:
        by_round.setdefault(contribution.round, []).append(contribution)
    chain = sorted(rounds, key=lambda record: record.number)
    previous: RoundRecord | None = None
    for expected, record in enumerate(chain, start=1):
        _verify(record, expected, previous, by_round.pop(record.number, []))
        previous = record
    seen: set[tuple[str, int]] = set()
    for part in every:
        if part.base is not None and part.outcome == ACCEPTED:
            task = part.client, part.base
            if task in seen or not 1 <= part.base <= part.round:
                raise CorruptionError(
                    f"round {part.round} counts an update of {part.client} that was made from the model of round "
                    f"{part.base}, {'as another round does' if task in seen else 'which was not there'}"
                )
            seen.add(task)
    if by_round:
        lost = min(by_round)
        raise CorruptionError(f"round {lost} is lost: {len(by_round[lost])} contributions to it are recorded")
    if head is not None and head not in [record.link for record in chain]:
        raise CorruptionError(
            f"the chain ends with round {len(chain)} and does not contain the link {head}: "
            "later rounds are lost, or it is another history; restore a newer backup"
        )


def _verify(
    record: RoundRecord, expected: int, previous: RoundRecord | None, contributions: Sequence[ContributionRecord]
) -> None:
    where = f"round {record.number} of session {record.session}"
    if record.number != expected:
        raise CorruptionError(f"round {expected} of session {record.session} is lost: the next one is {record.number}")
    strangers = [c for c in contributions if c.session != record.session]
    if strangers or (previous is not None and previous.session != record.session):
        raise CorruptionError(f"{where} is mixed with another session's")
    if previous is not None and record.parent_model != previous.model:
        raise CorruptionError(f"{where} starts from {record.parent_model}, but the round before made {previous.model}")
    outcomes = Counter(c.outcome for c in contributions)
    recorded = {"rejected": record.rejected, "failed": record.failed, "missing": record.missing}
    if record.broadcast is not None and recorded != {name: outcomes[name] for name in recorded}:
        raise CorruptionError(
            f"{where} does not count its contributions: it says {recorded}, they are {dict(outcomes)}"
        )
    accepted = [c for c in contributions if c.outcome == ACCEPTED]
    counted = (len(accepted), sum(c.num_examples for c in accepted))
    if counted != (record.accepted, record.weight):
        raise CorruptionError(
            f"{where} counts {record.accepted} updates of {record.weight} examples, but its contributions are "
            f"{counted[0]} of {counted[1]}"
        )
    try:
        link = round_link(previous.link if previous else "", record, contributions)
    except InputError as error:
        raise CorruptionError(str(error)) from error
    if link != record.link:
        raise CorruptionError(f"{where} has been changed: its link is {record.link!r}, but its content gives {link}")


def _encoding(previous: str, record: RoundRecord, parts: Sequence[ContributionRecord]) -> Iterator[bytes]:
    flows = any(part.base is not None for part in parts)
    kept = "hansa round link 2" if record.aggregate is None else "hansa round link 3"
    yield text("hansa round link 4" if flows else kept) + text(previous)
    yield text(record.project) + text(record.session) + _number(record.number) + text(record.run or "")
    yield from map(text, (record.parent_model, record.model, record.state, record.broadcast or ""))
    yield real(record.opened_at) + real(record.closed_at) + reals(record.metrics) + text(record.journal or "")
    yield _number(len(parts))
    for part in parts:
        yield text(part.client) + text(part.outcome) + _number(part.num_examples)
        yield text(part.digest) + text(part.reason) + reals(part.metrics)
        yield text(part.signer or "") + text(part.signature or "")
        if flows:
            yield _number(part.base or 0)
    if flows or record.aggregate is not None:
        yield text(record.aggregate or "") + _number(record.aggregate_weight or 0)


def _former_encoding(previous: str, record: RoundRecord, parts: Sequence[ContributionRecord]) -> Iterator[bytes]:
    accepted = [part for part in parts if part.outcome == ACCEPTED]
    yield from (text("hansa round link 1"), text(previous), text(record.session), _number(record.number))
    yield from (text(record.parent_model), text(record.model), text(record.state), _number(len(accepted)))
    for part in accepted:
        yield text(part.client) + _number(part.num_examples) + text(part.digest)


def _number(value: int) -> bytes:
    if not 0 <= value < _LARGEST:
        raise InputError(f"a round's link cannot hold the number {value}: it must be between 0 and 2^64 − 1")
    return number(value)


def _sparse(document: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Without what a newer version may add: fields that have their default."""
    return {
        name: _sparse(value, defaults[name]) if isinstance(value, dict) and name in {"rules", "evaluation"} else value
        for name, value in document.items()
        if value != defaults[name]
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
