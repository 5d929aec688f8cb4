"""Transforms in a simulation: every engine does the same, bytes are counted, and no effect is no change."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from memory_apps import DRIFTING, written

import hansa
from hansa.messages import RoundRules, RunSpec
from hansa.simulation import check_parity, differences
from hansa.simulation.parity import WAYS

HALF = RoundRules(selection="fraction", fraction=0.5)
UNIFORM = {"uniform": True}

SOME_WAYS = [way for way in WAYS if way.name not in {"three processes", "random groups", "arrival order shuffled"}]

LARGER = DRIFTING.replace("(6, 3)", "(60, 3)").replace(", 6))", ", 60))")
"""With a tensor that is large enough to be sketched."""

CHAINS = [
    ["clip:norm=0.5", "gaussian-noise:multiplier=0.1", "top-k:share=0.5", "quantize:bits=4"],
    ["clip:norm=0.5", "random-mask:share=0.5", "quantize:keep_norm=true", "central-noise:multiplier=0.1,clients=4"],
    ["clip:norm=0.5", "gaussian-noise:multiplier=0.1", "count-sketch:rows=1,momentum=0.5", "quantize"],
    ["adaptive-clip:norm=0.5", "central-noise:multiplier=0.1,clients=4"],
]


@pytest.mark.parametrize("transforms", CHAINS, ids=["local", "central", "sketch", "adaptive"])
def test_a_run_with_transforms_has_the_same_bits_in_every_way(tmp_path: Path, transforms: Sequence[str]):
    spec = RunSpec(
        algorithm="scaffold",
        algorithm_options={"num_clients": 9},
        rounds=3,
        rules=HALF,
        transforms=transforms,  # type: ignore[arg-type]  # as a user writes them
    )
    variants = check_parity(written(tmp_path, LARGER), spec, 9, SOME_WAYS)
    assert differences(variants) == {}
    plain = hansa.simulate(written(tmp_path, LARGER), spec, clients=9, transforms=[])
    assert plain.model_hash != variants[0].model_hash


@pytest.mark.parametrize(
    "transforms",
    [
        ["clip:norm=Infinity"],
        ["gaussian-noise:multiplier=0"],
        ["top-k:share=1"],
        ["random-mask:share=1"],
        ["clip:norm=Infinity", "central-noise:multiplier=0,clients=4"],
    ],
    ids=str,
)
def test_what_neither_clips_nor_noises_nor_leaves_out_is_fedavg_of_equal_clients_to_the_bit(
    tmp_path: Path, transforms: Sequence[str]
):
    app = written(tmp_path, DRIFTING)
    run = {"rounds": 3, "rules": RoundRules("count", 4), "aggregator_options": UNIFORM, "clients": 6}
    plain = hansa.simulate(app, **run)
    same = hansa.simulate(app, transforms=transforms, **run)
    assert [record.model_hash for record in same.rounds] == [record.model_hash for record in plain.rounds]


WIDE = """
import numpy as np
import hansa

app = hansa.App()

@app.model
def model(rng):
    return {"w": np.zeros(20_000, np.float32)}

@app.train
def train(model, task):
    return hansa.Update({"w": model["w"] + task.rng.normal(scale=0.1, size=20_000).astype(np.float32)}, num_examples=3)
"""


def test_bytes_are_those_that_would_travel(tmp_path: Path):
    app = tmp_path / "app.py"
    app.write_text(WIDE)

    def sent(*transforms: str, engine: str = "inline") -> float:
        result = hansa.simulate(app, clients=2, rounds=1, transforms=transforms, engine=engine, workers=None)  # type: ignore[arg-type]
        return result.rounds[0].upload_bytes / 2

    assert sent() == 80_000 + 72
    assert sent("quantize") == pytest.approx(20_000, rel=0.03)
    assert sent("quantize:bits=4") == pytest.approx(10_000, rel=0.05)
    assert sent("top-k:share=0.01") == pytest.approx(200 * 8, abs=200)
    assert sent("top-k:share=0.01", "quantize") == pytest.approx(200 * 5, abs=300)
    assert sent("random-mask:share=0.01") == pytest.approx(200 * 4, abs=500)
    assert sent("quantize", engine="processes") == sent("quantize")


def test_the_privacy_that_is_spent_is_in_the_result(tmp_path: Path):
    result = hansa.simulate(
        written(tmp_path, DRIFTING), clients=4, rounds=3, transforms=["clip:norm=1", "gaussian-noise:multiplier=4"]
    )
    spends = result.privacy(delta=1e-6)
    assert [each.rounds for each in spends] == [1, 2, 3]
    assert 0 < spends[0].epsilon < spends[1].epsilon < spends[2].epsilon
    assert hansa.simulate(written(tmp_path, DRIFTING), clients=4, rounds=1).privacy()[0].epsilon == float("inf")
