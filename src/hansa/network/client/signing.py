"""A client's signature on what it hands in: made when it is sent, with the key that the client has then."""

from dataclasses import replace

from hansa.network.identity import NodeIdentity
from hansa.statements import Part, report_statement, update_statement
from hansa.wire.frames import Evaluated, Offer

__all__ = ["signed_offer", "signed_report"]


def signed_offer(offer: Offer, identity: NodeIdentity) -> Offer:
    """An update's offer, which knows the model that it was made from."""
    (part,) = offer.contributions
    where = Part(identity.holder.project, offer.key.run, offer.key.round, part.client, offer.base)
    said = update_statement(where, offer.blob.digest, part.num_examples, part.metrics)
    return replace(offer, contributions=(replace(part, signature=identity.sign(said)),))


def signed_report(report: Evaluated, base: str, identity: NodeIdentity) -> Evaluated:
    """An evaluation. base: digest of the model that was evaluated."""
    where = Part(identity.holder.project, report.key.run, report.key.round, report.client, base)
    return replace(report, signature=identity.sign(report_statement(where, report.num_examples, report.metrics)))
