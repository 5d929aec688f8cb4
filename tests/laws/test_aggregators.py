"""Every law of aggregators, over everything registered in `hansa.aggregators`."""

from importlib.metadata import EntryPoint, entry_points

import pytest
from hypothesis import given, settings

from hansa.testing.aggregators import LAWS, Case, Law, cases

REGISTERED = sorted(entry_points(group="hansa.aggregators"), key=lambda point: point.name)


def test_there_is_something_to_hold_to_the_laws():
    assert "mean" in {point.name for point in REGISTERED}, "pip install -e . registers the built-ins"


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("point", REGISTERED, ids=lambda point: point.name)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(case=cases())
def test_holds(point: EntryPoint, law: Law, case: Case):
    law(point.load()(), case)
