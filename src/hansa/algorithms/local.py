"""Local training as algorithms ask for it: with a correction that must not be ignored, and steps that must be known."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hansa.algorithm import Trainer
from hansa.arrays import Arrays, is_floating, subtract
from hansa.errors import AppError
from hansa.messages import GradientCorrection, Task, Update

__all__ = ["check_memory_is_free", "checked_loss", "corrected_change", "corrected_fit", "known_step_sums", "step_sums"]


def corrected_change(
    algorithm: str, trainer: Trainer, model: Arrays, task: Task, correction: GradientCorrection | None
) -> Update:
    """Δ_i = w_i − w, every local gradient corrected; an app that ignores the correction is an `AppError`."""
    trained = corrected_fit(algorithm, trainer, model, task, correction)
    return replace(trained, arrays=subtract(trained.arrays, model))


def corrected_fit(
    algorithm: str, trainer: Trainer, model: Arrays, task: Task, correction: GradientCorrection | None
) -> Update:
    """w_i, the same."""
    corrected = task.corrected_by(correction)
    update = trainer.fit(model, corrected)
    if correction is not None and corrected.ignored_correction:
        raise AppError(
            f"{algorithm} corrects every gradient, but the app's train function never read task.correction: "
            f"{_honoured(correction)}, or give hansa.App a trainer, which does it, or choose the algorithm fedavg"
        )
    moved = (
        [name for name in correction.frozen if not np.array_equal(update.arrays[name], model[name])]
        if correction
        else []
    )
    if moved:
        whole = np.all(np.isfinite(update.arrays[min(moved)]))
        why = "has changed: honour correction.frozen" if whole else "is NaN or infinite: look at the inputs"
        raise AppError(f"{algorithm} holds some tensors still, but {min(moved)!r} {why}")
    return update


def _honoured(correction: GradientCorrection) -> str:
    """What a loop that ignores this correction should do."""
    terms = ["task.correction.proximal * (w - model)"] * bool(correction.proximal)
    terms += ["task.correction.offset[name]"] * (correction.offset is not None)
    terms += ["the gradient of task.correction.contrast"] * (correction.contrast is not None)
    added = [f"add {' and '.join(terms)} to each gradient"] * bool(terms)
    added += ["take each gradient g once more at w + task.correction.sharpness * g / norm(g)"] * bool(
        correction.sharpness
    )
    added += ["add what task.correction.penalty gives to the loss of each batch"] * (correction.penalty is not None)
    return " and ".join(added + ["leave the tensors of task.correction.frozen as they are"] * bool(correction.frozen))


def step_sums(trained: Update, model: Arrays) -> dict[str, float]:
    """`Update.step_sum` of each floating tensor that gradients train, 0 where it is unknown."""
    floating = [name for name, array in model.items() if is_floating(array)]
    if isinstance(trained.step_sum, Mapping):
        return {name: trained.step_sum[name] for name in floating if name in trained.step_sum}
    return dict.fromkeys(floating, trained.step_sum)


def known_step_sums(algorithm: str, trained: Update, model: Arrays) -> dict[str, float]:
    """The same; an `AppError` where none is known."""
    sums = step_sums(trained, model)
    if sums and not any(sums.values()):
        raise AppError(
            f"{algorithm} divides by the length of the local steps, and local training did not tell it: return "
            "hansa.Update(…, step_sum=steps * learning_rate), or give the trainer plain SGD as its optimizer"
        )
    return sums


def check_memory_is_free(algorithm: str, trained: Update, use: str) -> None:
    """Raise `AppError` where the app keeps a memory of its own; use: what the algorithm keeps there."""
    if trained.memory is not None:
        raise AppError(f"{algorithm} keeps the client's memory for {use}: return no memory of the app's own")


def checked_loss(algorithm: str, computed: Update) -> float:
    """The loss that came with a gradient; an `AppError` where there is none, or it is negative."""
    loss = computed.metrics.get("loss", math.nan)
    if not 0 <= loss < math.inf:
        raise AppError(
            f"{algorithm} weighs clients by their loss, which must be at least 0 and finite, but it is {loss}: let the "
            "trainer's gradient report the metric loss"
        )
    return loss
