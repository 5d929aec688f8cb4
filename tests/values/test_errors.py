"""The tree of errors."""

import copy
import re

import pytest

from hansa import errors
from hansa.errors import HansaError, MissingExtraError, Reason, UpdateRejectedError, UserCodeError

CLASSES = [getattr(errors, name) for name in errors.__all__ if name != "Reason"]


def test_the_docstring_draws_the_tree_as_it_is():
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]*)(\w+Error)\b", line):
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_is_a_hansa_error(cls: type[Exception]):
    assert issubclass(cls, HansaError)


def test_a_rejection_says_its_reason_and_its_detail():
    error = UpdateRejectedError(Reason.WEIGHT, "num_examples is 0")
    assert str(error) == "weight: num_examples is 0"
    assert error.reason is Reason.WEIGHT
    assert error.detail == "num_examples is 0"


def test_a_missing_extra_says_what_to_type():
    assert str(MissingExtraError("the trainer torch", "torch")) == (
        "the trainer torch needs an optional dependency: pip install 'hansa[torch]'"
    )


@pytest.mark.parametrize(
    "error",
    [
        UpdateRejectedError(Reason.STRUCTURE, "lacks 'w'"),
        MissingExtraError("the trainer torch", "torch"),
        UserCodeError("train() of ada raised", "Traceback …"),
        HansaError("anything"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_being_copied_as_it_is_between_processes(error: HansaError):
    again = copy.copy(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
