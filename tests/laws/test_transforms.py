"""Every law of transforms, over everything registered in `hansa.transforms`, and what the laws do not let pass."""

import tomllib
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from hansa.algorithm import Bound, Transform
from hansa.arrays import Arrays, scale
from hansa.errors import AppError
from hansa.messages import Packing, Update
from hansa.testing.broken import LawBrokenError
from hansa.testing.transforms import (
    LAWS,
    Case,
    Law,
    cases,
    memory_is_kept_where_it_is_said,
    nothing_that_was_given_is_changed,
    packing_loses_nothing,
    structure_is_kept,
    the_mean_is_right_where_it_is_said,
    the_norm_is_within_the_bound,
    the_same_random_numbers_give_the_same_bits,
)

REGISTERED = sorted(entry_points(group="hansa.transforms"), key=lambda point: point.name)

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "clip": [{"norm": 0.3}, {"norm": 0.3, "order": 1}],
    "adaptive-clip": [{"norm": 0.3}],
    "gaussian-noise": [{"multiplier": 0.5}],
    "laplace-noise": [{"multiplier": 0.5}],
    "central-noise": [{"multiplier": 0.5, "clients": 4}],
    "top-k": [{"share": 0.1}, {"share": 0.1, "feedback": False}],
    "count-sketch": [{"share": 0.25, "momentum": 0.5}],
    "random-mask": [{"share": 0.25}, {"share": 0.25, "rescale": False}],
    "quantize": [{"bits": 8}, {"bits": 4}, {"bits": 4, "keep_norm": True}],
}

MADE = [
    pytest.param(point, options, id=f"{point.name} {options}")
    for point in REGISTERED
    for options in OPTIONS.get(point.name, [{}])
]


def test_there_is_something_to_hold_to_the_laws():
    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        built_in = set(tomllib.load(file)["project"]["entry-points"]["hansa.transforms"])
    assert built_in <= {point.name for point in REGISTERED}, "pip install -e . registers the built-ins"


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(("point", "options"), MADE)
@settings(derandomize=True, deadline=None, max_examples=6)
@given(case=cases())
def test_holds(point: EntryPoint, options: dict[str, Any], law: Law, case: Case):
    law(lambda before: point.load()(before, **options), case)


@pytest.mark.parametrize(("point", "options"), MADE)
def test_a_transform_has_the_name_that_it_is_registered_under(point: EntryPoint, options: dict[str, Any]):
    assert point.load()(Bound(), **options).name == point.name


CASE = Case(Arrays({"w": np.zeros((40, 40), np.float32), "n": np.array([3])}), 2, 0)


def spoils(update: Update, rng: np.random.Generator) -> Update:
    del rng
    for array in update.arrays.values():
        array.base[...] = 1
    return update


@pytest.mark.parametrize(
    ("law", "broken"),
    [
        (structure_is_kept, Transform("t", lambda update, _: replace(update, arrays=Arrays()))),
        (
            the_same_random_numbers_give_the_same_bits,
            Transform("t", lambda update, _: replace(update, arrays=scale(update.arrays, np.random.random()))),  # noqa: NPY002 - the flaw
        ),
        (nothing_that_was_given_is_changed, Transform("t", spoils)),
        (the_norm_is_within_the_bound, Transform("t", bound=Bound(1e-9))),
        (memory_is_kept_where_it_is_said, Transform("t", keeps_memory=True)),
        (
            packing_loses_nothing,
            Transform("t", lambda update, _: replace(update, packing={"w": Packing(bits=8, steps=np.ones(1, "f4"))})),
        ),
        (
            the_mean_is_right_where_it_is_said,
            Transform("t", lambda update, _: replace(update, arrays=scale(update.arrays, 0.9)), unbiased=True),
        ),
    ],
)
def test_a_law_can_fail(law: Law, broken: Transform):
    with pytest.raises((LawBrokenError, AppError)):
        law(lambda _before: broken, CASE)
