"""Whether what is handed in was signed by those whose it is said to be.

A server knows the keys of its own children by their access tokens, the controller those of all that have joined. A sum
is checked by its contributors' signatures: a combiner can neither invent one nor change what one has reported.
"""

from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from hansa.errors import Reason, UpdateRejectedError
from hansa.messages import Signature
from hansa.statements import Part, report_statement, update_statement
from hansa.wire.frames import Evaluated, Offer
from hansa.wire.node_key import holds

__all__ = ["KeysOf", "check_offer", "check_report"]

KeysOf: TypeAlias = Callable[[str], Collection[str] | None]
"""Client → the public keys that it may sign with: its own, and the one before while it has just changed it.

None: it is not known here, and is checked above; empty: it is none of the network.
"""


def check_offer(
    offer: Offer, project: str, base: str, keys_of: KeysOf, earlier: Mapping[int, str] | None = None
) -> None:
    """Raise `UpdateRejectedError` unless each contributor has signed its part, and began from this round's model.

    base: that model's digest; earlier: of an asynchronous run in its place, the digests by the rounds that they are of.
    """
    for part in offer.contributions:
        keys = keys_of(part.client)
        if keys is None:
            continue
        number = offer.key.round
        if earlier is not None:
            number = part.base if offer.partial else offer.key.round
            if number not in earlier:
                detail = f"the update of {part.client} was made from the model of round {number}, which nobody has now"
                raise UpdateRejectedError(Reason.NOT_INVITED, detail)
            base = earlier[number]
        if not offer.partial and offer.base != base:
            raise UpdateRejectedError(
                Reason.UNSIGNED,
                f"the update of {part.client} was made from the model {offer.base[:12]!r}, but this round's is "
                f"{base[:12]!r}; drop it, and train again",
            )
        where = Part(project, offer.key.run, number, part.client, base)
        digest = part.digest if offer.partial else offer.blob.digest
        said = update_statement(where, digest, part.num_examples, part.metrics)
        _check(part.client, "update", part.signature, said, keys)


def check_report(report: Evaluated, project: str, base: str, keys_of: KeysOf) -> None:
    """Raise `UpdateRejectedError` unless the client has signed what it reports of the model that is evaluated."""
    keys = keys_of(report.client)
    if keys is not None:
        where = Part(project, report.key.run, report.key.round, report.client, base)
        said = report_statement(where, report.num_examples, report.metrics)
        _check(report.client, "report", report.signature, said, keys)


def _check(client: str, what: str, signature: Signature | None, statement: bytes, keys: Collection[str]) -> None:
    if not keys:
        raise UpdateRejectedError(Reason.UNSIGNED, f"{client} is no member of this network (any more)")
    if signature is None:
        raise UpdateRejectedError(
            Reason.UNSIGNED, f"the {what} of {client} is not signed; a client of this version signs what it hands in"
        )
    if signature.signer not in keys or not holds(signature, statement):
        raise UpdateRejectedError(
            Reason.UNSIGNED, f"the signature of {client} does not hold for this {what}: it was changed on its way"
        )
