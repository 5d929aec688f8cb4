"""UCI Heart Disease: four hospitals, thirteen features, one question; a natural federation of four clients.

The recipe is FLamby's Fed-Heart-Disease (du Terrail et al. 2022, arXiv:2210.04620), so that numbers can be compared:
columns 10, 11 and 12 are dropped, then rows with a missing value; columns 2 (chest pain, 1 to 4) and 6 (resting ECG,
0 to 2) are one-hot, without their first value; the diagnosis is 1 where it is above 0; each hospital keeps 34 % for
testing (scikit-learn's `train_test_split`, random state 43, stratified where each class has more than two rows), and
its features are standardized by the mean and the unbiased standard deviation of its own training part.

FLamby's accuracies "on the pooled test" are on test examples that are standardized otherwise, by the training parts of
all hospitals together: that is `pooled_test`. The same model can differ by 0.04 between the two.

Janosi, Steinbrunn, Pfisterer, Detrano: "Heart Disease", UCI Machine Learning Repository, 1988.
"""

from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array
from hansa.data.examples import Examples, Split
from hansa.errors import InputError, MissingExtraError

__all__ = ["HOSPITALS", "as_measured", "pooled_test", "read", "read_hospital"]

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")

_COLUMNS = 14
_DROPPED = (10, 11, 12)
_ONE_HOT = MappingProxyType({2: (1, 2, 3, 4), 6: (0, 1, 2)})
_TEST_SHARE = 0.34
_RANDOM_STATE = 43
_STRATIFIED_ABOVE = 2


def read(directory: str | Path) -> dict[str, Split]:
    """Hospital → features float32 of shape (n, 13) and diagnoses float32 of shape (n,), 0 or 1.

    directory: holds processed.cleveland.data, processed.hungarian.data, processed.switzerland.data, processed.va.data.
    Train 199, 172, 30, 85; test 104, 89, 16, 45.
    """
    return {hospital: read_hospital(directory, hospital) for hospital in HOSPITALS}


def read_hospital(directory: str | Path, hospital: str | int) -> Split:
    """One of `HOSPITALS`, by name or by number from 0, from its file alone.

    Raises `InputError`, naming the file, when it is missing, not of 14 columns, or has a value that is out of range.
    """
    if isinstance(hospital, int):
        if not 0 <= hospital < len(HOSPITALS):
            raise InputError(f"there is no hospital number {hospital}; there are {len(HOSPITALS)}, counted from 0")
        hospital = HOSPITALS[hospital]
    raw = as_measured(directory, hospital)
    return Split(train=_standardized(raw.train, raw.train.x), test=_standardized(raw.test, raw.train.x))


def pooled_test(directory: str | Path) -> Examples:
    """The 254 test examples of all hospitals, standardized by all training parts together."""
    parts = [as_measured(directory, hospital) for hospital in HOSPITALS]
    x, y = (np.concatenate(arrays) for arrays in zip(*(part.test for part in parts), strict=True))
    return _standardized(Examples(x, y), np.concatenate([part.train.x for part in parts]))


def as_measured(directory: str | Path, hospital: str) -> Split:
    """The examples of a hospital, features as they were measured, for example for trees. Raises as `read_hospital`."""
    if hospital not in HOSPITALS:
        raise InputError(f"there is no hospital {hospital!r}; there are {', '.join(HOSPITALS)}")
    file = Path(directory) / f"processed.{hospital}.data"
    table = _table(file)
    for column, values in _ONE_HOT.items():
        if unknown := set(table[:, column]) - set(values):
            raise InputError(f"{file} has {min(unknown)} in column {column}; expected one of {values}")
    diagnosis = table[:, -1] > 0
    counts = np.bincount(diagnosis, minlength=2)
    train, test = _indices(len(table), diagnosis if counts.min() > _STRATIFIED_ABOVE else None)
    examples = Examples(_features(table), diagnosis.astype(np.float32))
    return Split(train=examples.take(train), test=examples.take(test))


def _table(file: Path) -> npt.NDArray[np.float64]:
    """The complete rows of a file, shape (n, 14), the dropped columns as zeros."""
    if not file.is_file():
        raise InputError(f"there is no {file}; give the directory where this file of UCI's Heart Disease data lies")
    rows = [line.split(",") for line in file.read_text(encoding="ascii").splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != _COLUMNS:
            raise InputError(f"{file}, line {number}, has {len(row)} values; expected {_COLUMNS}")
    kept = [["0" if column in _DROPPED else value.strip() for column, value in enumerate(row)] for row in rows]
    try:
        return np.array([row for row in kept if "?" not in row], np.float64)
    except ValueError as error:
        raise InputError(f"{file}: {error}; expected numbers and '?'") from error


def _features(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Eight numbers as they are, then the one-hot columns, shape (n, 13)."""
    numeric = [c for c in range(_COLUMNS - 1) if c not in _DROPPED and c not in _ONE_HOT]
    one_hot = [table[:, [column]] == np.array(values[1:]) for column, values in _ONE_HOT.items()]
    return np.concatenate([table[:, numeric], *one_hot], axis=1).astype(np.float32)


def _standardized(examples: Examples, reference: Array) -> Examples:
    """The examples with each feature scaled by its mean and unbiased deviation in `reference`."""
    deviation = reference.std(axis=0, ddof=1)
    scale = np.where(deviation > 0, deviation, np.float32(1))  # a constant feature becomes 0
    return Examples((examples.x - reference.mean(axis=0)) / scale, examples.y)


def _indices(count: int, stratify: npt.NDArray[np.bool_] | None) -> tuple[Array, Array]:
    try:
        from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("the split of the heart-disease data", "sklearn") from error
    train, test = train_test_split(
        np.arange(count),
        train_size=1 - _TEST_SHARE,
        test_size=_TEST_SHARE,
        random_state=_RANDOM_STATE,
        stratify=stratify,
    )
    return train, test
