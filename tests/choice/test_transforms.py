"""A run's transforms: how they are written, what does not go together, and why that is refused."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from hansa.arrays import Arrays
from hansa.errors import ConfigError, Reason, UpdateRejectedError
from hansa.messages import RunSpec, TransformSpec, Update
from hansa.pipeline import slots_from_arrays
from hansa.run import resolve, resolve_transforms, seeded

UNIFORM = {"uniform": True}


def pipeline_of(*transforms: str):
    return resolve_transforms(RunSpec(transforms=transforms))  # type: ignore[arg-type]  # as a user writes them


# ── how they are written ─────────────────────────────────────────────────────────────────────────────────────────────


def test_text_mappings_and_specs_are_one():
    written = [TransformSpec("clip", {"norm": 1.0, "order": 1}), TransformSpec("quantize")]
    for given in (
        written,
        ["clip:norm=1.0,order=1", "quantize"],
        [{"name": "clip", "options": {"norm": 1.0, "order": 1}}, {"name": "quantize"}],
    ):
        assert RunSpec(transforms=given).transforms == tuple(written)  # type: ignore[arg-type]  # the point
    assert [str(each) for each in written] == ["clip:norm=1.0,order=1", "quantize"]


def test_a_value_is_read_as_json_where_it_is_json():
    (spec,) = RunSpec(transforms=("t:a=true,b=1e-3,c=text,d=Infinity",)).transforms  # type: ignore[arg-type]
    assert spec.options == {"a": True, "b": 1e-3, "c": "text", "d": math.inf}


def test_a_number_with_a_bare_point_is_one_and_digits_with_zeros_before_them_are_text():
    (spec,) = RunSpec(transforms=("t:a=.1,b=1.,c=-.5e-2,d=007,e=1.2.3,f=.",)).transforms  # type: ignore[arg-type]
    assert spec.options == {"a": 0.1, "b": 1.0, "c": -0.005, "d": "007", "e": "1.2.3", "f": "."}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("clip:norm=1", "transforms is 'clip:norm=1'; it must be a list"),
        (7, "transforms is 7; it must be a list"),
        (["clip:norm=1,norm=2"], "transform 'clip:norm=1,norm=2' gives an option twice"),
        (["clip:1.0"], "transform 'clip:1.0' cannot be read: write clip:option=value"),
        ([{"name": "clip", "norm": 1}], "cannot be read"),
        ([7], 'transform 7 cannot be read: write "name:option=value'),
    ],
)
def test_what_cannot_be_read_is_refused(given: object, said: str):
    with pytest.raises(ConfigError, match=said):
        RunSpec(transforms=given)  # type: ignore[arg-type]  # the point


# ── what does not go together ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("transforms", "said"),
    [
        (["clamp"], "there is no 'clamp' in hansa.transforms; there is: .*clip.*quantize"),
        (["clip"], "clip needs the option 'norm'; write clip:norm=…"),
        (["clip:nrom=1"], "clip has no option 'nrom'; its options are norm, order"),
        (["quantize:bits=5"], "quantize: bits is 5; it must be 8 or 4"),
        (["clip:norm=1", "clip:norm=2"], "clip and clip do the same step; a run has at most one of each"),
        (["top-k", "random-mask"], "top-k and random-mask do the same step"),
        (["gaussian-noise:multiplier=1", "clip:norm=1"], "which is not bounded: put clip before it"),
        (["gaussian-noise:multiplier=0", "clip:norm=1"], "clip must come before gaussian-noise: noise covers what is"),
        (["quantize", "clip:norm=1"], "clip must come before quantize: a rounded update that is scaled has values"),
        (["top-k", "clip:norm=1"], "clip must come before top-k: what top-k keeps back would be added"),
        (
            ["clip:norm=1", "top-k", "gaussian-noise:multiplier=1"],
            "gaussian-noise must come before top-k: what it keeps",
        ),
        (["clip:norm=1", "quantize", "gaussian-noise:multiplier=1"], "gaussian-noise must come before quantize"),
        (["quantize", "top-k"], "top-k must come before quantize: what is left out"),
        (
            ["clip:norm=1", "central-noise:multiplier=1,clients=2", "quantize"],
            "quantize must come before central-noise: it works on the sum",
        ),
        (
            ["clip:norm=Infinity", "gaussian-noise:multiplier=1"],
            "which is not bounded; after clip an update may have any",
        ),
        (
            ["clip:norm=1", "laplace-noise:multiplier=1"],
            "needs a bound on the sum of absolute values: give clip the opt",
        ),
        (["clip:norm=1", "quantize", "central-noise:multiplier=1,clients=2"], "after quantize an update may have any"),
        (["clip:norm=1", "top-k", "central-noise:multiplier=1,clients=2"], "after top-k an update may have any"),
        (
            ["clip:norm=1", "gaussian-noise:multiplier=1", "central-noise:multiplier=1,clients=2"],
            "after gaussian-noise an update may have any",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(transforms: Sequence[str], said: str):
    with pytest.raises(ConfigError, match=said):
        resolve(RunSpec(transforms=transforms, aggregator_options=UNIFORM))  # type: ignore[arg-type]


def test_noise_in_the_sum_needs_clients_that_count_alike():
    spec = RunSpec(transforms=("clip:norm=1", "central-noise:multiplier=1,clients=2"))  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match="clients count by their examples here; give the aggregator the option uniform"
    ):
        resolve(spec)
    resolve(replace(spec, aggregator_options=UNIFORM))
    resolve(replace(spec, algorithm="scaffold", algorithm_options={"num_clients": 4}))  # it counts them alike


@pytest.mark.parametrize(
    ("algorithm", "options", "said"),
    [
        (
            "fednova",
            {},
            "fednova sends the length of its local steps beside a change of the model, which clip would spoil",
        ),
        ("qfedavg", {"learning_rate": 1.0}, "qfedavg sends its weight and its loss"),
        ("afl", {"num_clients": 2}, "afl sends who is there, and with which loss"),
    ],
)
def test_an_algorithm_that_sends_more_than_a_change_is_not_transformed(
    algorithm: str, options: Mapping[str, float], said: str
):
    with pytest.raises(ConfigError, match=said):
        resolve(RunSpec(algorithm=algorithm, algorithm_options=options, transforms=("clip:norm=1",)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "transforms",
    [
        ["clip:norm=1", "gaussian-noise:multiplier=1", "top-k", "quantize:bits=4"],
        ["clip:norm=1,order=1", "laplace-noise:multiplier=1", "random-mask", "quantize"],
        ["clip:norm=1,order=1", "gaussian-noise:multiplier=1"],
        ["clip:norm=1", "quantize:keep_norm=true", "central-noise:multiplier=1,clients=2"],
        ["clip:norm=1", "top-k:feedback=false", "central-noise:multiplier=1,clients=2"],
        ["clip:norm=1", "random-mask", "quantize:keep_norm=true", "central-noise:multiplier=1,clients=2"],
    ],
)
def test_what_goes_together_is_one_line(transforms: Sequence[str]):
    run = resolve(RunSpec(transforms=transforms, aggregator_options=UNIFORM))  # type: ignore[arg-type]
    assert [f"{each.name}" for each in run.pipeline.transforms] == [text.partition(":")[0] for text in transforms]


# ── what they do together ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_that_did_not_clip_is_refused_by_the_server():
    pipeline = pipeline_of("clip:norm=1")
    pipeline.check(Arrays({"w": np.array([0.6, 0.8])}))
    pipeline_of("clip:norm=1", "quantize").check(Arrays({"w": np.array([60, 80.0])}))
    with pytest.raises(
        UpdateRejectedError, match=r"its norm is 1\.25, and updates of this run have at most 1"
    ) as refused:
        pipeline.check(Arrays({"w": np.array([0.75, 1.0])}))
    assert refused.value.reason is Reason.OUT_OF_RANGE


def test_the_memory_of_an_algorithm_and_of_a_transform_are_kept_apart():
    pipeline = pipeline_of("top-k:share=0.5")
    update = Update({"w": np.array([3.0, 1.0])}, 1, memory={"w": np.array([7.0])})
    first = pipeline.apply(update, None, lambda _: np.random.default_rng(0))
    assert {slot: dict(kept)["w"].tolist() for slot, kept in slots_from_arrays(first.memory).items()} == {  # type: ignore[arg-type]
        "algorithm": [7.0],
        "top-k": [0.0, 1.0],
    }
    own = pipeline.of_the_algorithm(first.memory)
    assert own is not None
    assert own["w"].tolist() == [7.0]
    silent = replace(update, memory=None)  # "what it had stays"
    second = pipeline.apply(silent, first.memory, lambda _: np.random.default_rng(0))
    assert pipeline.of_the_algorithm(second.memory) == own
    assert second.arrays["w"].tolist() == [3.0, 0.0]


def test_seeded_touches_noise_alone():
    spec = RunSpec(transforms=("clip:norm=1", "gaussian-noise:multiplier=1", "quantize"))  # type: ignore[arg-type]
    assert [str(each) for each in seeded(spec).transforms] == [
        "clip:norm=1", "gaussian-noise:multiplier=1,seeded=true", "quantize",
    ]  # fmt: skip
