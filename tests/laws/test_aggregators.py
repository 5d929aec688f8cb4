"""Every law of aggregators, over everything registered in `hansa.aggregators`."""

import tomllib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.aggregators.mean import WeightedMean
from hansa.testing.aggregators import LAWS, Case, cases

REGISTERED = sorted(entry_points(group="hansa.aggregators"), key=lambda point: point.name)

NEEDED: dict[str, dict[str, Any]] = {
    "krum": {"f": 1},
    "multi-krum": {"f": 1},
    "bulyan": {"f": 1},
    "centered-clipping": {"tau": 1.0},
    "norm-bound": {"bound": 1.0},
    "fltrust": {"trusted": "client-0"},
}
"""Options without a default."""


def test_there_is_something_to_hold_to_the_laws():
    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        built_in = set(tomllib.load(file)["project"]["entry-points"]["hansa.aggregators"])
    assert built_in <= {point.name for point in REGISTERED}, "pip install -e . registers the built-ins"


@pytest.mark.parametrize("point", REGISTERED, ids=lambda point: point.name)
@settings(derandomize=True, deadline=None, max_examples=8)
@given(data=st.data())
def test_every_law_holds(point: EntryPoint, data: st.DataObject):
    aggregator = point.load()(**NEEDED.get(point.name, {}))
    case = data.draw(cases(aggregator.least + 3, min_clients=aggregator.least))
    for law in LAWS:
        law(aggregator, case)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(case=cases())
def test_every_law_holds_of_the_mean_in_many_cases(case: Case):
    for law in LAWS:
        law(WeightedMean(), case)
