"""What an update goes through between local training and the sum, and which steps do not go together.

A run has at most one transform of each stage, in the order of the stages: clip, noise, select, quantize, release. What
is refused beside that, and why, is in this module and in no other.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from hansa.algorithm import Algorithm, Bound, Noise, Partial, Plan, Stage, Transform
from hansa.arrays import Array, Arrays, norm
from hansa.errors import ConfigError, Reason, UpdateRejectedError
from hansa.messages import Update

__all__ = ["Pipeline", "check_algorithm", "check_step", "quanta_of", "slots_from_arrays", "slots_to_arrays"]

_SLACK: Final = 1 + 1e-9
"""Of a norm that another machine computes."""

_ALGORITHM: Final = "algorithm"
"""The name under which an algorithm's own memory is kept beside that of transforms."""

_ORDER: Final[Mapping[tuple[Stage, Stage], str]] = {
    (Stage.NOISE, Stage.CLIP): "noise covers what is clipped before it, and clipping afterwards only makes it smaller",
    (Stage.SELECT, Stage.CLIP): "what top-k keeps back would be added to what is clipped; clip what is trained",
    (Stage.SELECT, Stage.NOISE): "what it keeps back, and which values it chose, would not be covered by the noise",
    (Stage.QUANTIZE, Stage.CLIP): "a rounded update that is scaled has values between the steps again",
    (Stage.QUANTIZE, Stage.NOISE): "noised values are between the steps again",
    (Stage.QUANTIZE, Stage.SELECT): "what is left out, and added later, has values between the steps again",
}
"""(the earlier, the later) → why not in this order."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The transforms of a run, in order."""

    transforms: tuple[Transform, ...] = ()

    @property
    def bound(self) -> Bound:
        """On what leaves a client."""
        return self.transforms[-1].bound if self.transforms else Bound()

    @property
    def clips_to(self) -> Bound:
        """On what is noised, or leaves without noise: the bound that the first step gives."""
        return next((each.bound for each in self.transforms if each.stage is Stage.CLIP), Bound())

    @property
    def noises(self) -> tuple[Noise, ...]:
        """What noise there is."""
        return tuple(each.noise for each in self.transforms if each.noise is not None)

    def apply(
        self, update: Update, before: Arrays | None, random: Callable[[Transform], np.random.Generator]
    ) -> Update:
        """The update as it leaves the client.

        before: all that the client remembered, which is divided among the algorithm and the transforms; random: each
        transform's own random numbers.
        """
        if not self._remembers:
            kept = update.memory
            for each in self.transforms:
                update = replace(each.apply(replace(update, memory=None), random(each)), memory=kept)
            return update
        kept_by = slots_from_arrays(before) if before is not None else {}
        if update.memory is not None:
            kept_by[_ALGORITHM] = update.memory
        for each in self.transforms:
            update = each.apply(replace(update, memory=kept_by.get(each.name)), random(each))
            if each.keeps_memory and update.memory is not None:
                kept_by[each.name] = update.memory
        return replace(update, memory=slots_to_arrays(kept_by) if kept_by else None)

    def structure(self, broadcast: Arrays) -> Arrays:
        """What updates look like that leave clients which were given this: the template of which they are summed."""
        for each in self.transforms:
            broadcast = each.structure(broadcast)
        return broadcast

    @property
    def keeps_structure(self) -> bool:
        """Whether updates have the tensors of what is broadcast."""
        return all(each.keeps_structure for each in self.transforms)

    def of_the_algorithm(self, memory: Arrays | None) -> Arrays | None:
        """What of a client's memory the algorithm has kept."""
        if memory is None or not self._remembers:
            return memory
        return slots_from_arrays(memory).get(_ALGORITHM)

    @property
    def releases(self) -> bool:
        """Whether the server adds noise to the sum before it is published."""
        return any(each.release is not None for each in self.transforms)

    def check(self, arrays: Arrays) -> None:
        """At the server: raise `UpdateRejectedError` for an update that is larger than any client of this run sends."""
        bound = self.bound
        if bound.norm < math.inf:
            length = norm(arrays, bound.order)
            if length > bound.norm * _SLACK:
                raise UpdateRejectedError(
                    Reason.OUT_OF_RANGE,
                    f"its norm is {length:.6g}, and updates of this run have at most {bound.norm:.6g}: it was not "
                    "clipped; does the client know the run's transforms?",
                )

    def release(
        self,
        partial: Partial,
        quanta: Callable[[], Mapping[str, float]],
        random: Callable[[Transform], np.random.Generator],
    ) -> Partial:
        """At the server that reports: the sum as it is reported. Changes its argument."""
        for each in self.transforms:
            if each.release is not None:
                partial = each.release(partial, quanta(), random(each))
        return partial

    @property
    def _remembers(self) -> bool:
        return any(each.keeps_memory for each in self.transforms)


def check_step(before: Sequence[Transform], after: Transform) -> None:
    """Raise `ConfigError` unless a transform may come after these."""
    for each in before:
        if each.stage is after.stage:
            raise ConfigError(
                f"transforms: {each.name} and {after.name} do the same step; a run has at most one of each"
            )
        if each.stage > after.stage:
            why = _ORDER.get((each.stage, after.stage), "it works on the sum, after everything that clients do")
            raise ConfigError(f"transforms: {after.name} must come before {each.name}: {why}")
    bound = before[-1].bound if before else Bound()
    noise = after.noise
    if noise is None or not noise.multiplier:
        return
    if not bound.norm < math.inf:
        last = f"; after {before[-1].name} an update may have any" if before else ""
        raise ConfigError(
            f"transforms: the noise of {after.name} is in proportion to the largest norm of an update, which is not "
            f"bounded{last}: put clip before it, and nothing between them that may lengthen an update"
        )
    if bound.order > noise.order:
        raise ConfigError(
            f"transforms: {after.name} needs a bound on the sum of absolute values: give clip the option order=1"
        )


def check_algorithm(transforms: Sequence[Transform], algorithm: Algorithm) -> None:
    """Raise `ConfigError` unless these may be used with this algorithm and its aggregator."""
    if transforms and algorithm.sends:
        raise ConfigError(
            f"transforms: {algorithm.name} sends {algorithm.sends} beside a change of the model, which "
            f"{transforms[0].name} would spoil; choose another algorithm, or no transforms"
        )
    reshaped = next((each for each in transforms if not each.keeps_structure), None)
    if reshaped is not None and algorithm.aggregator.shape != "sum":
        raise ConfigError(
            f"transforms: {reshaped.name} sends sums of values, of which something can be read when all are added, and "
            "the aggregator of this run compares single updates; choose the mean or norm-bound, or top-k"
        )
    if reshaped is not None and algorithm.buffering is not None:
        raise ConfigError(
            f"transforms: {algorithm.name} is asynchronous and scales changes of the model by their staleness, which "
            f"{reshaped.name} does not send; choose another algorithm, or top-k"
        )
    released = next((each for each in transforms if each.release is not None), None)
    if released is None:
        return
    if not hasattr(algorithm.aggregator, "quanta"):
        raise ConfigError(
            f"transforms: {released.name} adds noise to an exact sum, and the aggregator of this run makes none; "
            "choose the aggregator mean"
        )
    if not getattr(algorithm.aggregator, "uniform", False):
        raise ConfigError(
            f"transforms: {released.name} hides a client that counts as one, but clients count by their examples here; "
            "give the aggregator the option uniform=true"
        )


def quanta_of(algorithm: Algorithm, plan: Plan) -> Mapping[str, float]:
    """Of the floating tensors; only after `check_algorithm`."""
    quanta: Mapping[str, float] = algorithm.aggregator.quanta(plan)  # type: ignore[attr-defined]  # it was checked
    return quanta


def slots_to_arrays(slots: Mapping[str, Arrays]) -> Arrays:
    """Several `Arrays` as one: tensor t of slot s is `s/t`, and a slot without tensors is an empty one, `s/`.

    A `/` in a slot's own name is written `%2F`.
    """
    flat: dict[str, Array] = {}
    for slot, arrays in slots.items():
        prefix = slot.replace("%", "%25").replace("/", "%2F") + "/"
        flat |= {prefix + name: array for name, array in arrays.items()} or {prefix: np.zeros(0, np.bool_)}
    return Arrays(flat)


def slots_from_arrays(arrays: Arrays) -> dict[str, Arrays]:
    """The inverse of `slots_to_arrays`."""
    slots: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        prefix, _, name = key.partition("/")
        slot = slots.setdefault(prefix.replace("%2F", "/").replace("%25", "%"), {})
        if name:
            slot[name] = array
    return {slot: Arrays(items) for slot, items in slots.items()}
