"""Each committed model computed anew: what the server's half of the algorithm makes of what its round has added.

Needed are the model and the algorithm's state from before the round, and the round's aggregate, which a policy has to
keep (`hansa.store.retention`). The user's code is not needed: the server's half is of hansa, or of a plug-in that has
to be installed. hansa's own take sums, products, quotients and roots of single elements, which IEEE 754 defines to the
bit, so every machine makes the same model. The seed is where this begins: how it was made is not recorded.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hansa.algorithm import Aggregate
from hansa.arrays import Arrays, check_same_structure
from hansa.errors import ConfigError, CorruptionError
from hansa.evidence.record import Evidence
from hansa.messages import Contribution, RoundRules, Signature
from hansa.run import Run, resolve, slots_to_arrays
from hansa.store.link import ACCEPTED
from hansa.store.records import ContributionRecord, RoundRecord, SessionRecord
from hansa.wire import codec

__all__ = ["Step", "recompute", "resolved", "steps"]


@dataclass(frozen=True, slots=True)
class Step:
    """A committed round, and what its model was made from."""

    row: RoundRecord
    state: str
    """Digest of the algorithm's state before the round; empty where there was none."""
    contributions: Mapping[str, Contribution]

    @property
    def digests(self) -> frozenset[str]:
        """The objects that it needs."""
        return frozenset({self.row.parent_model, self.state, self.row.aggregate or ""}) - {""}


def steps(evidence: Evidence, there: Collection[str]) -> tuple[Step, ...]:
    """The rounds whose models can be computed from these objects; their rows are verified."""
    accepted: dict[int, dict[str, Contribution]] = {}
    for part in evidence.contributions:
        if part.outcome == ACCEPTED:
            accepted.setdefault(part.round, {})[part.client] = _contribution(part)
    states = ["", *(row.state for row in evidence.rounds)]
    found = (Step(row, states[row.number - 1], accepted.get(row.number, {})) for row in evidence.rounds)
    return tuple(step for step in found if step.row.aggregate and step.row.parent_model and step.digests <= set(there))


def resolved(session: SessionRecord) -> tuple[Run | None, str]:
    """(what computes the models of a session, why nothing here can): of its run, and of what is installed.

    Who was chosen is recorded, so a policy that is a plug-in is not asked for.
    """
    try:
        return resolve(replace(session.spec, rules=RoundRules())), ""
    except ConfigError as error:
        return None, str(error)


def recompute(run: Run, step: Step, load: Callable[[str], Arrays]) -> None:
    """Compute one round anew. load: the tensors of an object, by its digest.

    Raises `CorruptionError` that names the round and what of it does not follow from what is recorded.
    """
    row = step.row
    where = f"round {row.number} of session {row.session}"
    try:
        with np.errstate(all="ignore"):
            broadcast, model, slots = _made(run, step, load)
    except Exception as error:  # what a stranger recorded may fit nothing, a plug-in raise anything
        raise CorruptionError(
            f"{where} cannot be computed from what is recorded of it: {type(error).__name__}: {error}"
        ) from error
    found = {"broadcast": codec.digest(broadcast), "model": codec.digest(model)}
    found["state of the algorithm"] = codec.digest(slots) if slots else ""
    recorded = {"broadcast": row.broadcast, "model": row.model, "state of the algorithm": row.state}
    for what, digest in recorded.items():
        if digest is not None and digest != found[what]:
            raise CorruptionError(
                f"the {what} of {where} does not follow from what is recorded: {run.algorithm.name} makes "
                f"{found[what] or 'none'}, but {digest or 'none'} was committed"
            )


def _made(run: Run, step: Step, load: Callable[[str], Arrays]) -> tuple[Arrays, Arrays, Arrays]:
    """(what the clients were given, the model after the round, the algorithm's slots)."""
    row = step.row
    before = run.restored(load(row.parent_model), row.number - 1, load(step.state) if step.state else None)
    broadcast, mean = run.algorithm.broadcast(before), load(row.aggregate or "")
    check_same_structure(run.template(broadcast), mean, "the aggregate")
    after = run.finish(before, Aggregate(mean, row.aggregate_weight or 0, step.contributions))
    return broadcast, after.params, slots_to_arrays(after.slots)


def _contribution(part: ContributionRecord) -> Contribution:
    signature = Signature(part.signer, part.signature or "") if part.signer is not None else None
    return Contribution(part.client, part.num_examples, part.metrics, part.digest, signature, part.base or 0)
