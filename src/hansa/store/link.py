"""The chain of hashes that ties a round to its model, its contributors and the round before it.

`link = blake3(encoding)`, in hexadecimal digits, where the encoding is the concatenation of

    text("hansa round link 1")
    text(previous link, "" for the first round)
    text(session)  number(round)
    text(parent model)  text(model)  text(state)
    number(how many contributors were accepted)
    for each of them, by the bytes of its name:  text(client)  number(num_examples)  text(digest of its update)

    text(s)    = number(length of s in UTF-8, in bytes), then these bytes
    number(n)  = 8 bytes, unsigned, little-endian

No two different rounds have the same encoding, and a program in any language can verify a chain offline.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from blake3 import blake3

from hansa.errors import CorruptionError, InputError
from hansa.store.records import ContributionRecord, RoundRecord

__all__ = ["ACCEPTED", "round_link", "verify_chain"]

ACCEPTED: Final = "accepted"
"""The outcome of a contribution that is in the sum."""
_DOMAIN: Final = "hansa round link 1"


def round_link(previous: str, record: RoundRecord, contributions: Iterable[ContributionRecord]) -> str:
    """The link of a round, 64 hexadecimal digits; the record's own `link` is not looked at.

    previous: the link of the round before, empty for the first; contributions: the round's, in any order; those that
    are not accepted play no part. Raise `InputError` when a client is accepted twice.
    """
    accepted = sorted(
        ((c.client.encode(), c.num_examples, c.digest) for c in contributions if c.outcome == ACCEPTED),
    )
    for left, right in pairwise(accepted):
        if left[0] == right[0]:
            raise InputError(f"round {record.number} of session {record.session} counts {left[0].decode()!r} twice")
    return blake3(b"".join(_encoding(previous, record, accepted))).hexdigest()


def verify_chain(
    rounds: Iterable[RoundRecord], contributions: Iterable[ContributionRecord], head: str | None = None
) -> None:
    """Raise `CorruptionError`, naming the first broken round, unless the rounds of one session form one whole chain.

    rounds, contributions: all of the session's, in any order. head: the newest link that the caller has seen
    elsewhere; with it a restored backup that lacks the last rounds is recognised too.
    """
    by_round: dict[int, list[ContributionRecord]] = {}
    for contribution in contributions:
        by_round.setdefault(contribution.round, []).append(contribution)
    chain = sorted(rounds, key=lambda record: record.number)
    previous: RoundRecord | None = None
    for expected, record in enumerate(chain, start=1):
        _verify(record, expected, previous, by_round.pop(record.number, []))
        previous = record
    if by_round:
        number = min(by_round)
        raise CorruptionError(f"round {number} is lost: {len(by_round[number])} contributions to it are recorded")
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
    accepted = [c for c in contributions if c.outcome == ACCEPTED]
    counted = (len(accepted), sum(c.num_examples for c in accepted))
    if counted != (record.accepted, record.weight):
        raise CorruptionError(
            f"{where} counts {record.accepted} updates of {record.weight} examples, but its contributions are "
            f"{counted[0]} of {counted[1]}"
        )
    try:
        link = round_link(previous.link if previous else "", record, accepted)
    except InputError as error:
        raise CorruptionError(str(error)) from error
    if link != record.link:
        raise CorruptionError(f"{where} has been changed: its link is {record.link!r}, but its content gives {link}")


def _encoding(previous: str, record: RoundRecord, accepted: Sequence[tuple[bytes, int, str]]) -> Iterator[bytes]:
    yield from (_text(_DOMAIN), _text(previous), _text(record.session), _number(record.number))
    yield from (_text(record.parent_model), _text(record.model), _text(record.state), _number(len(accepted)))
    for client, num_examples, digest in accepted:
        yield _number(len(client)) + client + _number(num_examples) + _text(digest)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _number(len(encoded)) + encoded


def _number(number: int) -> bytes:
    if not 0 <= number < 2**64:
        raise InputError(f"a round's link cannot hold the number {number}: it must be between 0 and 2^64 − 1")
    return number.to_bytes(8, "little")
