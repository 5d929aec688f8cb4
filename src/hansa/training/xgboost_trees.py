"""Trees of XGBoost for `hansa.distributed.bagging` and `cyclic`.

Chen, Guestrin: "XGBoost: A Scalable Tree Boosting System", KDD 2016, arXiv:1603.02754. An ensemble is the library's
JSON model, which any XGBoost of the same major version reads: `xgboost.Booster(model_file=bytearray(ensemble))`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hansa.errors import AppError, ConfigError, InputError, MissingExtraError
from hansa.protocols.parts import check_count

try:
    import xgboost
except ImportError as error:
    raise MissingExtraError("hansa.training.xgboost_trees", "xgboost") from error

__all__ = ["XGBoostTrees"]

_ALIASES: Final = {"learning_rate": "eta", "random_state": "seed", "n_jobs": "nthread"}
"""Other names of what is set here: XGBoost would take the one and leave the other."""


class XGBoostTrees:
    """A `hansa.protocols.boosting.Trees`; on one thread, so that the same rows give the same bits."""

    def __init__(self, parameters: Mapping[str, Any], *, trees: int = 1) -> None:
        """parameters: XGBoost's, with an objective, of a tree booster; trees: boosting rounds of one client in a row.

        `base_score` is 0.5 where it is not given: what clients would estimate differs, and ensembles must add up.
        `seed` is where draws begin (`subsample`, `colsample_bytree`); each round draws others.
        """
        if "objective" not in parameters or parameters.get("booster", "gbtree") != "gbtree":
            raise ConfigError("XGBoostTrees needs an objective, for example binary:logistic, and the booster gbtree")
        check_count("trees", trees)
        given = {_ALIASES.get(name, name): value for name, value in parameters.items()}
        if len(given) < len(parameters):
            raise ConfigError(f"XGBoostTrees: one parameter is given by two names: {', '.join(sorted(parameters))}")
        self._parameters = {"base_score": 0.5, "eta": 0.3, "seed": 0, "nthread": 1, "verbosity": 0, **given}
        self._trees = trees

    def grow(self, ensemble: bytes, x: Any, y: Any, share: float) -> bytes:
        """The next trees alone, with a learning rate of `share` times `eta`."""
        before = _booster(ensemble) if ensemble else None
        drawn = int(self._parameters["seed"]) + (before.num_boosted_rounds() if before else 0)
        parameters = {**self._parameters, "eta": share * float(self._parameters["eta"]), "seed": drawn}
        try:
            grown = xgboost.train(parameters, xgboost.DMatrix(x, label=y, nthread=1), self._trees, xgb_model=before)
        except xgboost.core.XGBoostError as error:
            raise AppError(f"XGBoost cannot train on these examples: {_said(error)}") from error
        return bytes(grown[grown.num_boosted_rounds() - self._trees :].save_raw("json"))

    def joined(self, ensemble: bytes, grown: Sequence[bytes]) -> bytes:
        """The ensemble with these after it; `InputError` where something is none of XGBoost's trees."""
        first, *others = [_read(each) for each in (ensemble, *grown) if each]
        model = _trees_of(first)
        for other in map(_trees_of, others):
            start, rounds = len(model["trees"]), model["iteration_indptr"]
            model["trees"] += [{**tree, "id": start + k} for k, tree in enumerate(other["trees"])]
            model["tree_info"] += other["tree_info"]
            rounds += [rounds[-1] + end for end in other["iteration_indptr"][1:]]
        model["gbtree_model_param"]["num_trees"] = str(len(model["trees"]))
        return json.dumps(first, separators=(",", ":")).encode()

    @staticmethod
    def predict(ensemble: bytes, x: Any) -> npt.NDArray[np.float32]:
        """What the objective predicts, for example the probability of 1, shape (n,) or (n, classes)."""
        booster, examples = _booster(ensemble), xgboost.DMatrix(x, nthread=1)
        if examples.num_col() != booster.num_features():
            raise InputError(
                f"x has {examples.num_col()} features, and the ensemble was grown on {booster.num_features()}"
            )
        return np.asarray(booster.predict(examples))


def _booster(ensemble: bytes) -> xgboost.Booster:
    try:
        return xgboost.Booster(model_file=bytearray(ensemble))
    except xgboost.core.XGBoostError as error:
        raise InputError(f"XGBoost cannot read an ensemble of {len(ensemble)} bytes: {_said(error)}") from error


def _said(error: Exception) -> str:
    """What went wrong, without the addresses of the library's own functions."""
    return str(error).partition("\nStack trace")[0][:400]


def _read(ensemble: bytes) -> dict[str, Any]:
    try:
        model: dict[str, Any] = json.loads(ensemble)
        _trees_of(model)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{len(ensemble)} bytes are no JSON model of XGBoost's trees: {error!r:.200}") from error
    return model


def _trees_of(model: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = model["learner"]["gradient_booster"]["model"]
    return found
