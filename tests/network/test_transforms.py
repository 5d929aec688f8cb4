"""Transforms on a real network: the bits of the simulation, fewer bytes, secret noise, and a data owner's demands."""

from dataclasses import replace
from pathlib import Path

import pytest
from federation import federation

import hansa
from hansa.errors import Reason
from hansa.messages import RoundRules, RunSpec
from hansa.network.client.ledger import departures
from hansa.network.client.policy import Privacy, SitePolicy
from hansa.privacy import clip
from hansa.run import seeded
from hansa.store.link import verify_chain
from hansa.store.records import SessionState

FOUR = RoundRules(min_clients=4, quorum=4, deadline=60)

LOCAL = RunSpec(
    rounds=3,
    rules=FOUR,
    transforms=("clip:norm=2", "gaussian-noise:multiplier=0.01", "top-k:share=0.2", "quantize"),  # type: ignore[arg-type]
)
CENTRAL = RunSpec(
    rounds=2,
    rules=FOUR,
    aggregator_options={"uniform": True},
    transforms=(
        "clip:norm=2",
        "random-mask:share=0.5",
        "quantize:bits=4,keep_norm=true",
        "central-noise:multiplier=0.01,clients=4",
    ),  # type: ignore[arg-type]
)

SKETCHED = RunSpec(rounds=3, rules=FOUR, transforms=("clip:norm=2", "count-sketch:momentum=0.5", "quantize"))  # type: ignore[arg-type]


@pytest.fixture
def cheating(app: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An app that takes clipping out of hansa, in the process that it runs in; this one forgets it."""
    monkeypatch.setattr(clip, "clipped", clip.clipped)
    app.write_text(CHEAT + app.read_text())
    return app


@pytest.fixture
def app(large_app: Path) -> Path:
    """With 40,000 weights: a plain update is too large to travel in its offer."""
    large_app.write_text(large_app.read_text().replace("1000000", "40000"))
    return large_app


async def test_a_network_makes_the_bits_of_the_simulation_of_fewer_bytes_and_noise_that_is_its_own(
    app: Path, tmp_path: Path
) -> None:
    async with federation(tmp_path, ["north", "south"]) as made:
        await made.clients(4)
        for spec in (LOCAL, CENTRAL):
            simulated = hansa.simulate(app, spec, clients=4)
            session = await made.run(app, seeded(spec))
            assert session.state is SessionState.FINISHED, session.cause
            assert session.model == simulated.model_hash
            verify_chain(await made.rounds(session), await made.contributions(session))
            sizes = [
                left.bytes
                for k in range(4)
                for left in departures(tmp_path / f"client-{k}" / "ledger.jsonl")
                if left.session == session.id and left.kind == "update"
            ]
            assert sum(sizes) == sum(record.upload_bytes for record in simulated.rounds)
            assert max(sizes) < 160_000 / 2.5

            secret = await made.run(app, replace(spec, rounds=1))
            assert secret.state is SessionState.FINISHED, secret.cause
            assert secret.model != simulated.rounds[0].model_hash, "the seed must not tell the noise"


async def test_combiners_add_tables_and_no_model_is_as_large(app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path, ["north", "south"]) as made:
        await made.clients(4)
        simulated = hansa.simulate(app, SKETCHED, clients=4)
        session = await made.run(app, SKETCHED)
        assert session.state is SessionState.FINISHED, session.cause
        assert session.model == simulated.model_hash
        assert max(record.upload_bytes for record in simulated.rounds) < 4 * 160_000 / 15


CHEAT = """
import hansa.privacy.clip
hansa.privacy.clip.clipped = lambda arrays, limit: arrays
"""


async def test_an_update_that_was_not_clipped_is_seen_by_the_server_and_by_the_site(
    cheating: Path, tmp_path: Path
) -> None:
    spec = RunSpec(rounds=1, rules=RoundRules(deadline=60, replace_failed=False), transforms=("clip:norm=2",))  # type: ignore[arg-type]
    async with federation(tmp_path) as made:
        await made.client("open")
        told = await made.run(cheating, spec)
        await made.leave("open")
        await made.gone("open")
        await made.client("ward", policy=SitePolicy(privacy=Privacy(max_norm=2)))
        refused = await made.run(cheating, spec)
    assert told.state is SessionState.FAILED
    assert f"{Reason.OUT_OF_RANGE}: its norm is" in (told.cause or "")
    assert "ward refuses this session: this site's policy: updates must be clipped to a norm of 2" in (
        refused.cause or ""
    )
    assert not departures(tmp_path / "ward" / "ledger.jsonl")
