"""Each model is computed anew from what its round has kept, and one that does not follow from it is found.

The operator of the server is the attacker here: who has its key can sign whatever was changed, and only what clients
have signed, and arithmetic, stands against it.
"""

import asyncio
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from federation import PROJECT, Federation, federation
from memory_apps import DRIFTING, written
from rewriting import Tamper, changing, signed_anew

from hansa.arrays import Arrays
from hansa.errors import CorruptionError, InputError
from hansa.evidence.bundle import open_bundle, verify_bundle, write_bundle
from hansa.evidence.documents import from_json, to_json
from hansa.evidence.findings import Verification
from hansa.evidence.record import Evidence, gather
from hansa.evidence.stored import verify_session
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.network.controller.export import Models
from hansa.run import slots_from_arrays, slots_to_arrays
from hansa.store.records import RoundRecord, SessionRecord, SessionState
from hansa.wire import codec
from hansa.wire.node_key import NodeKey

ROUNDS = 3
RULES = RoundRules(min_clients=3, quorum=3)
ADAM = RunSpec(rounds=ROUNDS, algorithm="fedadam", rules=RULES, evaluation=EvaluationRules(every=0))
SPECS = {
    "adam": ADAM,
    "scaffold": replace(ADAM, algorithm="scaffold", algorithm_options={"num_clients": 4}),
    "uniform": replace(ADAM, algorithm="fedavg", aggregator_options={"uniform": True}),
    "noised": replace(
        ADAM,
        aggregator_options={"uniform": True},
        transforms=("clip:norm=1", "central-noise:multiplier=0.1,clients=3"),  # type: ignore[arg-type]
    ),
    "sketched": replace(ADAM, transforms=("count-sketch:momentum=0.5",)),  # type: ignore[arg-type]  # as a user writes it
    "median": replace(ADAM, algorithm="fedavg", aggregator="median"),
}


@dataclass
class Kept:
    """What a finished session that keeps its aggregates has left."""

    evidence: Evidence
    file: Path
    objects: dict[str, Path]
    server: NodeKey
    found: Verification
    """By the server itself."""

    def arrays(self, digest: str | None) -> Arrays:
        return codec.load(self.objects[digest or ""])

    def with_object(self, arrays: Arrays, folder: Path) -> str:
        """One more."""
        digest = codec.digest(arrays)
        self.objects[digest] = folder / digest
        codec.save(arrays, self.objects[digest])
        return digest

    def exported(self, evidence: Evidence, file: Path, without: frozenset[str] = frozenset()) -> Path:
        """Signed by the operator, with the bytes of what is named."""
        objects = {digest: self.objects[digest] for digest in evidence.objects if digest not in without}
        asyncio.run(write_bundle(file, evidence, objects, self.server.sign, version="0", at=1.0))
        return file


@pytest.fixture(scope="module")
def made(app: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kept]:
    folder = tmp_path_factory.mktemp("kept")
    larger = folder / "larger.py"
    larger.write_text(app.read_text().replace("50", "500"))
    apps = dict.fromkeys(SPECS, app) | {"scaffold": written(folder, DRIFTING), "sketched": larger}

    places = {name: folder / name for name in SPECS}
    for place in places.values():
        place.mkdir()

    async def run() -> dict[str, Kept]:
        async with federation(folder, ["only"]) as network:
            await network.clients(3)
            return {name: await _kept(network, apps[name], spec, places[name]) for name, spec in SPECS.items()}

    return asyncio.run(run())


@pytest.fixture
def adam(made: dict[str, Kept]) -> Kept:
    return replace(made["adam"], objects=dict(made["adam"].objects))


async def started(network: Federation, app: Path, spec: RunSpec, keep: str) -> SessionRecord:
    session = await network.create(app, spec)
    await network.controller.sessions.keep(PROJECT, session.id, keep)
    return await network.controller.sessions.start(PROJECT, session.id)


async def _kept(network: Federation, app: Path, spec: RunSpec, folder: Path) -> Kept:
    session = await network.end(await started(network, app, spec, "all, aggregates"))
    assert session.state is SessionState.FINISHED, session.cause
    controller = network.controller
    await controller.sessions.export(PROJECT, session.id, Models.ALL, folder / "session.hansa.zip")
    evidence = await gather(controller.store, PROJECT, session.id)
    objects = {digest: folder / digest for digest in evidence.objects}
    for digest, path in objects.items():
        path.write_bytes((await controller.objects.fetch(digest)).read_bytes())
    server = NodeKey.of_pem((network.folder / "controller" / "keys" / "tokens.key").read_bytes())
    found = await verify_session(controller.store, controller.objects, PROJECT, session.id)
    return Kept(evidence, folder / "session.hansa.zip", objects, server, found)


def verify(file: Path) -> Verification:
    with file.open("rb") as opened:
        return verify_bundle(open_bundle(opened))


@pytest.mark.parametrize("name", SPECS)
def test_every_model_follows_from_what_was_added_here_and_there(made: dict[str, Kept], name: str):
    kept = made[name]

    assert (kept.found.recomputed, kept.found.not_recomputed, kept.found.obstacle) == (ROUNDS, 0, "")
    assert verify(kept.file) == kept.found
    for row in kept.evidence.rounds:
        assert (
            codec.size(kept.arrays(row.aggregate)) == row.aggregate_size == kept.objects[row.aggregate].stat().st_size
        )
        assert row.aggregate_weight == (row.weight if name in {"adam", "sketched"} else row.accepted)


def test_the_first_round_is_computed_from_the_seed_alone(adam: Kept, tmp_path: Path):
    rounds = adam.evidence.rounds
    others = frozenset({*(row.model for row in rounds), *(row.state for row in rounds)})

    found = verify(adam.exported(adam.evidence, tmp_path / "seed.zip", without=others))

    assert (found.recomputed, found.not_recomputed) == (1, ROUNDS - 1)


# ── what an operator changes, who signs it too ───────────────────────────────────────────────────────────────────────


def moved(arrays: Arrays) -> Arrays:
    """A little bit away from where it was."""
    return Arrays({name: np.nextafter(array, np.float32(9)) for name, array in arrays.items()})


def another_last_model(kept: Kept, folder: Path) -> Tamper:
    """Nobody has signed anything about the last model: it was not evaluated, and nobody trained from it."""
    digest = kept.with_object(moved(kept.arrays(kept.evidence.rounds[-1].model)), folder)

    def tamper(evidence: Evidence) -> Evidence:
        session = replace(evidence.session, model=digest)
        changed = changing("rounds", -1, model=digest)(replace(evidence, session=session))
        return changing("models", -1, id=digest)(changed)

    return tamper


def another_state(kept: Kept, folder: Path) -> Tamper:
    slots = slots_from_arrays(kept.arrays(kept.evidence.rounds[1].state))
    other = slots_to_arrays({name: moved(slot) for name, slot in slots.items()})
    return changing("rounds", 1, state=kept.with_object(other, folder))


def another_last_state(kept: Kept, folder: Path) -> Tamper:
    return changing("rounds", -1, state=kept.with_object(Arrays({"m/w": np.zeros(50, np.float32)}), folder))


def no_state(_kept: Kept, _folder: Path) -> Tamper:
    return changing("rounds", -1, state="")


def another_aggregate(kept: Kept, folder: Path) -> Tamper:
    other = moved(kept.arrays(kept.evidence.rounds[1].aggregate))
    return changing("rounds", 1, aggregate=kept.with_object(other, folder))


def an_aggregate_of_other_tensors(kept: Kept, folder: Path) -> Tamper:
    return changing("rounds", 1, aggregate=kept.with_object(Arrays({"w": np.zeros((50, 1), np.float32)}), folder))


def a_state_of_another_shape(kept: Kept, folder: Path) -> Tamper:
    """Which together with the aggregate would make a square of it."""
    wide = {name: Arrays({"w": np.zeros((50, 1), np.float32)}) for name in ("m", "v")}
    return changing("rounds", 0, state=kept.with_object(slots_to_arrays(wide), folder))


def a_state_that_is_no_file_of_tensors(kept: Kept, folder: Path) -> Tamper:
    digest = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    kept.objects[digest] = folder / digest
    kept.objects[digest].touch()
    return changing("rounds", 0, state=digest)


DONE: dict[str, tuple[Callable[[Kept, Path], Tamper], str]] = {
    "the last model": (another_last_model, "the model of round 3 .* does not follow"),
    "a state": (another_state, "the state of the algorithm of round 2 .* does not follow"),
    "the last state": (another_last_state, "the state of the algorithm of round 3 .* does not follow"),
    "a state that is not there": (no_state, "the state of the algorithm of round 3 .* but none was committed"),
    "an aggregate": (another_aggregate, "the model of round 2 .* does not follow from what is recorded: fedadam makes"),
    "an aggregate that does not fit": (an_aggregate_of_other_tensors, "round 2 .* cannot be computed .* the aggregate"),
    "a state that does not fit": (a_state_of_another_shape, "the state of the algorithm of round 1|has the shape"),
    "a state that is none": (a_state_that_is_no_file_of_tensors, "the state of the algorithm of round 1"),
}


@pytest.mark.parametrize("what", DONE)
def test_what_an_operator_changes_and_signs_again_is_found(adam: Kept, tmp_path: Path, what: str):
    change, said = DONE[what]
    evidence = signed_anew(change(adam, tmp_path)(adam.evidence), adam.server)

    with pytest.raises(CorruptionError, match=said):
        verify(adam.exported(evidence, tmp_path / "changed.zip"))


@pytest.mark.parametrize("change", [a_state_of_another_shape, a_state_that_is_no_file_of_tensors])
def test_a_round_is_not_computed_from_what_fits_nothing(
    adam: Kept, tmp_path: Path, change: Callable[[Kept, Path], Tamper]
):
    """Where the round before, which shows it at once, was not kept."""
    evidence = signed_anew(change(adam, tmp_path)(adam.evidence), adam.server)
    seed = frozenset({evidence.session.seed_model or ""})

    with pytest.raises(CorruptionError, match=r"round 2 of session .* cannot be computed from what is recorded"):
        verify(adam.exported(evidence, tmp_path / "changed.zip", without=seed))


def test_what_is_only_signed_again_is_whole(adam: Kept, tmp_path: Path):
    found = verify(adam.exported(signed_anew(adam.evidence, adam.server), tmp_path / "again.zip"))
    assert (found.recomputed, found.sealed) == (ROUNDS, True)


def test_without_what_was_added_the_last_model_is_the_operator_s_to_choose(adam: Kept, tmp_path: Path):
    """What keeping aggregates is for."""
    changed = another_last_model(adam, tmp_path)(adam.evidence)
    none = {"aggregate": None, "aggregate_size": None, "aggregate_weight": None}
    rounds = tuple(replace(row, **none) for row in changed.rounds)

    found = verify(adam.exported(signed_anew(replace(changed, rounds=rounds), adam.server), tmp_path / "chosen.zip"))

    assert (found.recomputed, found.not_recomputed, found.obstacle) == (0, ROUNDS, "")


def test_an_aggregate_with_a_flipped_bit_is_damaged(adam: Kept, tmp_path: Path):
    digest = adam.evidence.rounds[1].aggregate or ""
    content = bytearray(adam.objects[digest].read_bytes())
    content[-1] ^= 1
    adam.objects[digest] = tmp_path / digest
    adam.objects[digest].write_bytes(content)

    with pytest.raises(CorruptionError, match="the aggregate of round 2 is damaged"):
        verify(adam.exported(adam.evidence, tmp_path / "flipped.zip"))


def test_an_algorithm_that_is_not_installed_is_named_and_no_failure(adam: Kept, tmp_path: Path):
    spec = replace(adam.evidence.session.spec, algorithm="theirs", rules=replace(RULES, selection="theirs too"))
    evidence = replace(adam.evidence, session=replace(adam.evidence.session, spec=spec))

    found = verify(adam.exported(signed_anew(evidence, adam.server), tmp_path / "theirs.zip"))

    assert (found.recomputed, found.not_recomputed) == (0, ROUNDS)
    assert found.obstacle.startswith("there is no 'theirs' in hansa.algorithms")


def test_a_policy_that_is_not_installed_is_in_nobody_s_way(adam: Kept, tmp_path: Path):
    spec = replace(adam.evidence.session.spec, rules=replace(RULES, selection="theirs"))
    evidence = replace(adam.evidence, session=replace(adam.evidence.session, spec=spec))

    assert verify(adam.exported(signed_anew(evidence, adam.server), tmp_path / "theirs.zip")).recomputed == ROUNDS


# ── bundles ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_compressed_objects_are_refused_because_they_could_become_anything_in_memory(adam: Kept, tmp_path: Path):
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(adam.file) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in archive.namelist():
            target.writestr(name, archive.read(name))

    with pytest.raises(InputError, match="its objects are compressed"):
        verify(packed)


def test_a_row_of_an_older_bundle_lacks_what_came_later(adam: Kept):
    row = replace(adam.evidence.rounds[0], aggregate=None, aggregate_size=None, aggregate_weight=None)
    document = {name: value for name, value in to_json(row).items() if not name.startswith("aggregate")}

    assert from_json(RoundRecord, document) == row
    for lacking in ("model", "link", "metrics"):
        with pytest.raises(CorruptionError):
            from_json(RoundRecord, {name: value for name, value in document.items() if name != lacking})


# ── on a network ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_controller_that_comes_back_commits_what_it_would_have(app: Path, tmp_path: Path):
    gate = tmp_path / "gate"
    spec = replace(ADAM, rounds=5, config={"gate": str(gate)})
    async with federation(tmp_path) as network:
        await network.clients(3)
        broken_off = await started(network, app, spec, "all, aggregates")
        await network.until_round(broken_off, 2)
    gate.touch()
    async with federation(tmp_path) as network:
        await network.clients(3)
        broken_off = await network.end(broken_off)
        undisturbed = await network.end(await started(network, app, spec, "all, aggregates"))
        both = [await network.rounds(session) for session in (broken_off, undisturbed)]
        found = await verify_session(network.controller.store, network.controller.objects, PROJECT, broken_off.id)

    assert broken_off.state is SessionState.FINISHED, broken_off.cause
    assert found.recomputed == 5
    one, two = ([(row.model, row.state, row.aggregate, row.aggregate_weight) for row in rounds] for rounds in both)
    assert one == two
