"""Aggregators that keep every update, on a network: the simulation's bits; what a combiner may hand up, and may not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from federation import federation
from rig import KEY, LARGE, Node, Rig, blob_of, filled, parts_of, rig

import hansa
from hansa.algorithm import Partial
from hansa.arrays import Arrays
from hansa.errors import Reason
from hansa.messages import Contribution, EvaluationRules, RoundRules, RunSpec
from hansa.store.link import verify_chain
from hansa.store.records import SessionState
from hansa.store.spool import Spool
from hansa.wire import codec
from hansa.wire.frames import Admission, Blob, Hello, LogLine, Offer, OpenRound, Presence, Present, Role, Seal, Verdict

FOUR = RoundRules(min_clients=4, quorum=4, deadline=60)
MEDIAN = RunSpec(name="run", aggregator="median")


@pytest.mark.parametrize(
    ("aggregator", "transforms"),
    [
        ("geometric-median", ()),
        ("trimmed-mean", ("clip:norm=1", "gaussian-noise:multiplier=0.1,seeded=true", "quantize:bits=4")),
    ],
    ids=["as it is", "clipped, noised and quantized"],
)
async def test_a_tree_of_combiners_passes_every_update_up_and_has_the_bits_of_the_simulation(
    large_app: Path, tmp_path: Path, aggregator: str, transforms: Any
) -> None:
    spec = RunSpec(rounds=2, aggregator=aggregator, transforms=transforms, rules=FOUR)
    async with federation(tmp_path, ["north", "south"]) as made:
        await made.combiner("n1", parent="north")
        await made.clients(4)
        session = await made.run(large_app, spec)
        servers = {present.combiner for present in made.tree.directory.clients.values()}
        rounds, contributions = await made.rounds(session), await made.contributions(session)
    assert servers == {"n1", "south"}
    assert session.state is SessionState.FINISHED, session.cause
    assert session.model == hansa.simulate(large_app, spec, clients=4).model_hash
    verify_chain(rounds, contributions)


async def test_a_round_with_too_few_updates_for_f_ends_the_session_and_says_what_is_needed(
    app: Path, tmp_path: Path
) -> None:
    spec = RunSpec(
        rounds=2, aggregator="krum", aggregator_options={"f": 1}, rules=FOUR, evaluation=EvaluationRules(every=0)
    )
    async with federation(tmp_path) as made:
        await made.clients(4)
        session = await made.run(app, spec)
    assert session.state is SessionState.FAILED
    assert "4 updates count in this round, and krum needs n > 2f + 2 updates, with f = 1: at least 5" in session.cause
    assert session.round == 0


# ── what a combiner may hand up ──────────────────────────────────────────────────────────────────────────────────────


async def combined(made: Rig, combiner: Node, rows: Partial, model: Arrays, size: int | None = None) -> Verdict:
    """The hub's answer to the rows of a combiner below it; size: what it announces."""
    combiner.link.send(Presence(joined=tuple(Present(name, {}, "below", "") for name in ("x", "y"))))
    while not {present.client for present in (await made.told(Presence)).joined} & {"x"}:
        pass
    made.open("x", "y", model=model, spec=MEDIAN)
    await combiner.told(OpenRound)
    made.hub.receive_from_parent(Seal(KEY))
    await combiner.told(Seal)
    blob = blob_of(Arrays(rows.sums), inline=model is not LARGE)
    blob = blob if size is None else replace(blob, size=size, inline=b"")
    offer = Offer(KEY, combiner.name, blob, tuple(rows.contributions.values()), partial=True, weight=rows.weight)
    combiner.send(offer)
    if not blob.inline and size is None:
        admission = await combiner.told(Admission)
        await combiner.link.upload(admission.upload, parts_of(Arrays(rows.sums)), 0)
    return await combiner.told(Verdict)


def rows_of(model: Arrays, **sums: np.ndarray) -> Partial:
    """Of x and y, who have signed an update of halves; sums: other bytes for one of them."""
    row, signed = np.full(model["w"].size, 0.5, np.float32).view(np.uint8), codec.digest(filled(0.5, model))
    return Partial({"x": row, "y": row} | sums, 2, {name: Contribution(name, 3, digest=signed) for name in ("x", "y")})


def combiner_hello() -> Hello:
    return Hello(Role.COMBINER, "a process", "0", address="tcp://127.0.0.1:1")


async def test_many_updates_are_received_on_disk_and_kept_there() -> None:
    async with rig() as made, made.node("below", combiner_hello()) as combiner:
        verdict = await combined(made, combiner, rows_of(LARGE), LARGE)
        assert verdict.accepted, verdict.detail
        partial = await made.sums.get()
    assert partial is not None
    assert isinstance(partial.sums, Spool)
    assert sorted(partial.sums) == ["x", "y"]
    assert partial.sums["x"].view(np.float32).tolist() == filled(0.5, LARGE)["w"].tolist()


def _of_another_size(model: Arrays) -> Partial:
    return rows_of(model, y=np.zeros(model["w"].nbytes + 8, np.uint8))


def _signed_so(model: Arrays, value: float) -> Partial:
    """y has signed an update of such values."""
    partial = rows_of(model, y=np.full(model["w"].size, value, np.float32).view(np.uint8))
    partial.contributions["y"] = Contribution("y", 3, digest=codec.digest(filled(value, model)))
    return partial


def _not_finite(model: Arrays) -> Partial:
    return _signed_so(model, np.nan)


def _out_of_range(model: Arrays) -> Partial:
    return _signed_so(model, 65)


def _not_what_was_signed(model: Arrays) -> Partial:
    return rows_of(model, y=np.full(model["w"].size, 0.25, np.float32).view(np.uint8))


def _of_a_stranger(model: Arrays) -> Partial:
    partial = rows_of(model)
    partial.sums["z"] = partial.sums["y"]
    return partial


def _of_nobody(model: Arrays) -> Partial:
    partial = rows_of(model)
    del partial.sums["y"]
    return partial


def _sums(model: Arrays) -> Partial:
    return Partial({"w": np.zeros(model["w"].shape, np.int64)}, 2, rows_of(model).contributions)


def _too_heavy(model: Arrays) -> Partial:
    return replace(rows_of(model), weight=7)


@pytest.mark.parametrize(
    ("spoilt", "reason", "said"),
    [
        (_of_another_size, Reason.STRUCTURE, "y has no row of 40 bytes"),
        (_not_finite, Reason.NOT_FINITE, "NaN"),
        (_out_of_range, Reason.OUT_OF_RANGE, "changes by up to 65"),
        (_not_what_was_signed, Reason.DIGEST, "the update of y is not the one that it has signed"),
        (_of_a_stranger, Reason.STRUCTURE, "rows of others than its contributors"),
        (_of_nobody, Reason.STRUCTURE, "y has no row of 40 bytes"),
        (_sums, Reason.STRUCTURE, "x has no row of 40 bytes"),
        (_too_heavy, Reason.WEIGHT, "claims the weight 7, but its contributors have 2"),
    ],
)
async def test_rows_that_are_not_due_are_refused_whole(
    spoilt: Callable[[Arrays], Partial], reason: Reason, said: str
) -> None:
    model = Arrays({"w": np.zeros(10, np.float32)})
    async with rig() as made, made.node("below", combiner_hello()) as combiner:
        verdict = await combined(made, combiner, spoilt(model), model)
        assert (verdict.accepted, verdict.reason) == (False, reason)
        assert said in verdict.detail
        assert "was rejected, its clients offer again" in (await made.told(LogLine)).line
        assert await made.sums.get() is None


async def test_more_bytes_than_its_contributors_account_for_are_refused_before_they_are_taken() -> None:
    model = Arrays({"w": np.zeros(10, np.float32)})
    async with rig() as made, made.node("below", combiner_hello()) as combiner:
        verdict = await combined(made, combiner, rows_of(model), model, size=1 << 40)
        assert (verdict.accepted, verdict.reason) == (False, Reason.TOO_LARGE)


async def test_bytes_that_are_not_canonical_are_refused_where_updates_are_kept() -> None:
    whole = b"".join(codec.encode(filled(0.5)))
    length = int.from_bytes(whole[:8], "little")
    spaced = (length + 8).to_bytes(8, "little") + whole[8 : 8 + length] + b" " * 8 + whole[8 + length :]
    blob = Blob(blake3(spaced).hexdigest(), len(spaced), spaced)
    for spec, accepted in ((RunSpec(name="run"), True), (MEDIAN, False)):
        async with rig() as made, made.node("x") as client:
            made.open("x", spec=spec)
            await client.told(OpenRound)
            client.send(Offer(KEY, "x", blob, (Contribution("x", 1),)))
            verdict = await client.told(Verdict)
            assert verdict.accepted == accepted
    assert verdict.reason == Reason.MALFORMED
    assert "the bytes must be canonical" in verdict.detail


async def test_a_disk_that_cannot_keep_an_update_refuses_it_and_says_so(tmp_path: Path) -> None:
    async with rig() as made, made.node("x") as client:
        made.hub._phases._spool = tmp_path / "missing"
        made.open("x", spec=MEDIAN)
        await client.told(OpenRound)
        client.offer(filled(0.5))
        verdict = await client.told(Verdict)
    assert (verdict.accepted, verdict.reason) == (False, Reason.TOO_LARGE)
    assert "the disk of the aggregation server cannot keep it" in verdict.detail
