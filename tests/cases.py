"""Cases of a test that take seconds each and say nearly the same: some run always, the others by name."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def some(cases: Iterable[Any], always: Collection[Any]) -> list[Any]:
    """All cases, in their order, of which those that are not in `always` are slow."""
    return [case if case in always else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def slow(*values: Any) -> Any:
    """A case that runs by name."""
    return pytest.param(*values, marks=pytest.mark.slow)
