"""A third party has a bundle, and finds whatever was changed in it, or in the database before it was exported.

One session runs on a real network of a controller, a combiner and three clients. What an attacker does who can write
to the database is done to its rows, and the server, which does not know it, signs the bundle: what it signed before
must not fit any more. What one does who only has the file is done to the file.
"""

import asyncio
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from federation import federation
from rewriting import Tamper, changing, relinked, without

from hansa.errors import CorruptionError, HansaError, InputError
from hansa.evidence.bundle import open_bundle, verify_bundle, write_bundle
from hansa.evidence.findings import Known, Verification
from hansa.evidence.receipts import RECEIPTS, Receipt, read_receipts
from hansa.evidence.record import Evidence, gather
from hansa.messages import Kind, RoundRules, RunSpec
from hansa.network.controller.export import Models
from hansa.network.node_keys import NodeKeys, handover
from hansa.statements import bundle_statement
from hansa.store.records import HandoverRecord, SessionState
from hansa.wire.node_key import NodeKey

CLIENTS = ("client-0", "client-1", "client-2")
ROUNDS = 3


@dataclass
class Exported:
    """What a finished session has left, here and there."""

    evidence: Evidence
    objects: dict[str, Path]
    server: NodeKey
    file: Path
    keys: dict[str, str]
    """Client → its public key, as its own folder has it."""
    receipts: dict[str, list[Receipt]]


@pytest.fixture(scope="module")
def exported(app: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("evidence")
    made = asyncio.run(_exported(app, folder))
    homes = {name: next(folder.rglob(f"{name}/node-key.pem")).parent for name in CLIENTS}
    made.keys = {name: NodeKeys(home).current().public for name, home in homes.items()}
    made.receipts = {name: read_receipts(home / RECEIPTS) for name, home in homes.items()}
    return made


async def _exported(app: Path, folder: Path) -> Exported:
    file = folder / "session.hansa.zip"
    async with federation(folder, ["only"]) as made:
        await made.clients(len(CLIENTS))
        spec = RunSpec(rounds=ROUNDS, algorithm="fedadam", rules=RoundRules(min_clients=3, quorum=3))
        session = await made.run(app, spec)
        assert session.state is SessionState.FINISHED, session.cause
        controller = made.controller
        await controller.sessions.export(session.project, session.id, Models.ALL, file, "ada")
        evidence = await gather(controller.store, session.project, session.id)
        objects = {digest: await controller.objects.fetch(digest) for digest in evidence.objects}
        kept = {digest: folder / digest for digest in objects}
        for digest, path in objects.items():
            kept[digest].write_bytes(path.read_bytes())
        server = NodeKey.of_pem((folder / "controller" / "keys" / "tokens.key").read_bytes())
    return Exported(evidence, kept, server, file, {}, {})


def verify(file: Path, known: Known | None = None) -> Verification:
    with file.open("rb") as opened:
        return verify_bundle(open_bundle(opened), known)


def exported_again(exported: Exported, evidence: Evidence, file: Path) -> Path:
    """As a server does that has these rows now."""
    asyncio.run(write_bundle(file, evidence, exported.objects, exported.server.sign, version="0", at=1.0))
    return file


def test_a_bundle_as_it_was_exported_is_whole_and_says_who_signed(exported: Exported):
    found = verify(exported.file)

    assert (found.rounds, found.contributions, found.updates, found.reports) == (3, 9, 9, 9)
    assert (found.unsigned, found.pruned, found.sealed) == (0, 0, True)
    assert found.objects == len(exported.evidence.objects) >= 1 + 2 * ROUNDS
    assert found.servers == (exported.server.public,)
    assert found.clients == {name: (key,) for name, key in exported.keys.items()}
    everything = Known(
        found.head,
        [exported.server.public],
        exported.keys,
        [receipt for kept in exported.receipts.values() for receipt in kept],
    )
    assert verify(exported.file, everything) == found
    assert all(len(kept) == ROUNDS for kept in exported.receipts.values())


def test_rows_that_nobody_changed_are_whole_when_they_are_exported_again(exported: Exported, tmp_path: Path):
    assert verify(exported_again(exported, exported.evidence, tmp_path / "again.zip")).updates == 9


# ── in the database, before the export ───────────────────────────────────────────────────────────────────────────────


def more_examples(evidence: Evidence) -> Evidence:
    """A client counts more, and the sums agree with it."""
    heavier = changing("contributions", 0, num_examples=30)(evidence)
    number = heavier.contributions[0].round
    return changing("rounds", number - 1, weight=lambda row: row.weight + 27)(heavier)


def exchanged_models(evidence: Evidence) -> Evidence:
    """The last model is another one, everywhere."""
    other = evidence.rounds[0].model
    session = replace(evidence.session, model=other)
    changed = changing("rounds", -1, model=other)(replace(evidence, session=session))
    return changing("models", -1, id=other)(changed)


def last_round_cut_off(evidence: Evidence) -> Evidence:
    return evidence.until(ROUNDS - 1)


def a_client_made_up(evidence: Evidence) -> Evidence:
    """With a key of its own: it has signed nothing that fits."""
    first = evidence.contributions[0]
    key = NodeKey.new()
    made = replace(
        first, id=f"{first.id}-9", client="client-9", signer=key.public, signature=key.sign(b"anything").value
    )
    return replace(
        changing("rounds", first.round - 1, accepted=4, weight=12)(evidence),
        contributions=(*evidence.contributions, made),
    )


def signatures_taken_out(evidence: Evidence) -> Evidence:
    """As though all had been committed before anybody signed, with hashes of that time."""
    bare = {"broadcast": None, "run": None, "journal": None, "signer": None, "signature": None}
    none = {"signer": None, "signature": None}
    told = [replace(each, data={}) if each.kind == "session.finished" else each for each in evidence.events]
    return replace(
        evidence,
        rounds=tuple(replace(row, **bare) for row in evidence.rounds),
        contributions=tuple(replace(part, **none) for part in evidence.contributions),
        evaluations=tuple(replace(report, **none) for report in evidence.evaluations),
        events=tuple(told),
    )


def metric(evidence: Evidence, kind: Kind, client: str) -> int:
    return next(
        i
        for i, row in enumerate(evidence.metrics)
        if (row.kind, row.client) == (kind, client) and row.value == row.value
    )


def shown(kind: Kind, client: str) -> Tamper:
    """A number that people look at is another one."""
    return lambda evidence: changing("metrics", metric(evidence, kind, client), value=lambda row: row.value + 1)(
        evidence
    )


def event(kind: str, **changes: Any) -> Tamper:
    """A line of the session's log is another one."""
    return lambda evidence: changing(
        "events", next(i for i, each in enumerate(evidence.events) if each.kind == kind), **changes
    )(evidence)


TAMPERED: dict[str, tuple[Tamper, str]] = {
    "the digest of an update": (changing("contributions", 0, digest="ab" * 32), "has not signed"),
    "the weight of an update": (more_examples, "has not signed"),
    "a metric of an update": (changing("contributions", 0, metrics={"loss": 0.0}), "metrics of round|has not signed"),
    "the signature of an update": (changing("contributions", 0, signature="00" * 64), "has not signed"),
    "an update put under another name": (changing("contributions", 0, client="client-7"), "has not signed"),
    "a client that never was": (a_client_made_up, "has not signed|metrics of round"),
    "an update that is left out": (without("contributions", 0), "counts 3 updates"),
    "a rejection that never was": (changing("contributions", 0, outcome="rejected"), "its contributions"),
    "the model of the last round": (exchanged_models, "server's signature of round 3"),
    "the model that a round began from": (changing("rounds", 0, parent_model="cd" * 32), "seed"),
    "what the clients were given": (changing("rounds", 1, broadcast="cd" * 32), "signature"),
    "the state of the algorithm": (changing("rounds", 1, state="cd" * 32), "signature of round 2"),
    "the time of a round": (changing("rounds", 1, closed_at=1.0), "signature of round 2"),
    "a merged metric of a round": (changing("rounds", 1, metrics={"loss": 0.0}), "round 2"),
    "the server's signature of a round": (changing("rounds", 1, signature="00" * 64), "signature of round 2"),
    "a round that is left out": (without("rounds", 1), "round 2 of session .* is lost"),
    "the last round cut off": (last_round_cut_off, "ended after rounds"),
    "a report": (changing("evaluations", 0, metrics={"mean": 0.0}), "is not what it has signed"),
    "the signature of a report taken out": (
        changing("evaluations", 0, signer=None, signature=None),
        "is not what it has signed",
    ),
    "a report that is left out": (without("evaluations", 0), "are not what was reported"),
    "the model of a report": (changing("evaluations", 0, model="cd" * 32), "another model"),
    "a shown metric of a client": (shown(Kind.EVALUATE, "client-1"), "not what was reported"),
    "a shown mean of an evaluation": (shown(Kind.EVALUATE, ""), "not what was reported"),
    "a shown mean of the training": (shown(Kind.TRAIN, ""), "not what was reported"),
    "a shown metric of the server": (shown(Kind.EVALUATE, "central"), "that its event tells"),
    "a line of the log": (event("round.opened", message="nobody was invited"), "names an event|signature"),
    "the data of a line of the log": (
        event("round.evaluated", data={}),
        "not those that its event tells|names an event",
    ),
    "a line of the log that is left out": (without("events", 1), "names an event|signature"),
    "how it ended": (event("session.finished", message="all went well"), "signature of the end"),
    "what is said of its end": (
        lambda evidence: replace(evidence, session=replace(evidence.session, state=SessionState.FAILED)),
        "has not signed",
    ),
    "the specification": (
        lambda evidence: replace(
            evidence, session=replace(evidence.session, spec=replace(evidence.session.spec, seed=7))
        ),
        "of another run",
    ),
    "the code": (
        lambda evidence: replace(evidence, session=replace(evidence.session, package="cd" * 32)),
        "of another run",
    ),
    "the model trail": (changing("models", 1, parent="cd" * 32), "model trail"),
    "rows of another session": (changing("metrics", 0, session="other"), "of another session"),
}


@pytest.mark.parametrize("hashes", ["as they were", "reckoned anew"])
@pytest.mark.parametrize("what", TAMPERED)
def test_what_is_changed_in_the_database_is_found(exported: Exported, tmp_path: Path, what: str, hashes: str):
    tamper, said = TAMPERED[what]
    evidence = tamper(exported.evidence)
    assert evidence != exported.evidence
    if hashes == "reckoned anew":
        evidence = relinked(evidence)
    file = exported_again(exported, evidence, tmp_path / "tampered.zip")

    with pytest.raises(CorruptionError, match=f"{said}|server's signature of" if hashes == "reckoned anew" else None):
        verify(file)


def test_rounds_without_signatures_are_told_from_those_with(exported: Exported, tmp_path: Path):
    evidence = relinked(signatures_taken_out(exported.evidence))
    found = verify(exported_again(exported, evidence, tmp_path / "bare.zip"))

    assert (found.unsigned, found.updates, found.reports) == (18, 0, 0)  # which `hansa verify --bundle` refuses


# ── with what is known from elsewhere ────────────────────────────────────────────────────────────────────────────────


def test_a_server_that_made_up_a_whole_session_is_found_by_what_others_have_kept(exported: Exported, tmp_path: Path):
    """It can sign anything as itself; not as a client, nor can it take a receipt back."""
    other = NodeKey.new()
    foreign = replace(exported, server=other)
    file = exported_again(foreign, exported.evidence, tmp_path / "foreign.zip")
    with pytest.raises(CorruptionError, match="none of the keys that you gave"):
        verify(file, Known(server=[exported.server.public]))
    with pytest.raises(CorruptionError, match="whose key is"):
        verify(exported.file, Known(clients={"client-1": other.public}))
    with pytest.raises(CorruptionError, match="does not contain the link"):
        verify(exported.file, Known(head="ab" * 32))


def test_a_receipt_shows_that_a_round_was_another_one(exported: Exported):
    kept = exported.receipts["client-1"][1]
    assert verify(exported.file, Known(receipts=[kept])).rounds == ROUNDS
    link = exported.evidence.rounds[0].link
    signature = exported.server.sign(b"").value
    with pytest.raises(InputError, match="not one that a server has signed"):
        verify(exported.file, Known(receipts=[replace(kept, signature=signature)]))
    first = exported.receipts["client-1"][0]
    assert first.link == link
    with pytest.raises(CorruptionError, match="round 2 is another one"):
        verify(exported.file, Known(receipts=[replace(first, round=2)]))
    with pytest.raises(CorruptionError, match="does not count the update"):
        verify(exported.file, Known(receipts=[replace(kept, update="ab" * 32)]))
    with pytest.raises(CorruptionError, match="does not count the update"):
        verify(exported.file, Known(receipts=[replace(kept, client="client-9")]))


# ── in the file ──────────────────────────────────────────────────────────────────────────────────────────────────────


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target


def flip(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        found = next(each for each in sorted(entries) if each.startswith(name))
        content = bytearray(entries[found])
        content[len(content) // 2] ^= 1
        entries[found] = bytes(content)

    return change


def blank(entries: dict[str, bytes]) -> None:
    """Not a value is another one."""
    entries["bundle.json"] += b"\n"


def foreign_object(entries: dict[str, bytes]) -> None:
    entries["objects/" + "ab" * 32] = b"x"


def no_rounds(entries: dict[str, bytes]) -> None:
    document = json.loads(entries["bundle.json"])
    del document["rounds"]
    entries["bundle.json"] = json.dumps(document).encode()


def a_list_in_place_of_a_number(entries: dict[str, bytes]) -> None:
    document = json.loads(entries["bundle.json"])
    document["rounds"][0]["weight"] = [1]
    entries["bundle.json"] = json.dumps(document).encode()


@pytest.mark.parametrize(
    "change", [flip("objects/"), flip("bundle.json"), blank, foreign_object, no_rounds, a_list_in_place_of_a_number]
)
def test_what_is_changed_in_the_file_is_found(
    exported: Exported, tmp_path: Path, change: Callable[[dict[str, bytes]], None]
):
    with pytest.raises(CorruptionError):
        verify(rewritten(exported.file, tmp_path / "changed.zip", change))


def test_a_model_that_is_left_out_of_the_file_counts_as_not_read(exported: Exported, tmp_path: Path):
    def drop(entries: dict[str, bytes]) -> None:
        del entries["objects/" + exported.evidence.rounds[0].model]

    assert verify(rewritten(exported.file, tmp_path / "less.zip", drop)).pruned == 1


@pytest.mark.parametrize("keep", [0, 10, 1000, -1, -30])
def test_a_file_that_was_cut_off_is_no_bundle(exported: Exported, tmp_path: Path, keep: int):
    cut = tmp_path / "cut.zip"
    cut.write_bytes(exported.file.read_bytes()[:keep])
    with pytest.raises(HansaError):
        verify(cut)


def test_an_archive_of_anything_else_is_no_bundle(tmp_path: Path):
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("../bundle.json", "{}")
    with pytest.raises(InputError, match="no bundle"):
        verify(other)


# ── where a client has changed its key ───────────────────────────────────────────────────────────────────────────────


def handed_over(exported: Exported, *changes: HandoverRecord) -> Evidence:
    return replace(exported.evidence, handovers=changes)


@pytest.fixture(scope="module")
def moved(exported: Exported) -> tuple[HandoverRecord, HandoverRecord]:
    """client-1 has another key since the session, and another one since then."""
    home = exported.file.parent / "client-1"
    first = NodeKeys(home).current()
    assert first is not None
    assert first.public == exported.keys["client-1"]
    second, third = NodeKey.new(), NodeKey.new()
    project = exported.evidence.session.project
    return handover(project, "client-1", first, second, 1.0), handover(project, "client-1", second, third, 2.0)


def test_a_client_is_known_by_any_of_its_keys_and_by_no_other(
    exported: Exported, moved: tuple[HandoverRecord, HandoverRecord], tmp_path: Path
):
    file = exported_again(exported, handed_over(exported, *moved), tmp_path / "moved.zip")
    assert verify(file).handovers == 2
    for key in (moved[0].former, moved[0].key, moved[1].key):
        assert verify(file, Known(clients={"client-1": key})).updates == 9
    for name, key in (("client-1", NodeKey.new().public), ("client-0", moved[0].key)):
        with pytest.raises(CorruptionError, match="whose key is"):
            verify(file, Known(clients={name: key}))
    unlinked = exported_again(exported, handed_over(exported, moved[1]), tmp_path / "unlinked.zip")
    with pytest.raises(CorruptionError, match="whose key is"):
        verify(unlinked, Known(clients={"client-1": moved[1].key}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"by_former": "00" * 64}, "both keys have not signed"),
        ({"by_key": "00" * 64}, "both keys have not signed"),
        ({"key": "ed25519:" + "ab" * 32}, "both keys have not signed"),
        ({"former": "ed25519:" + "ab" * 32}, "both keys have not signed"),
        ({"node": "client-0"}, "both keys have not signed"),
    ],
)
def test_a_change_of_a_key_that_was_made_up_is_found(
    exported: Exported,
    moved: tuple[HandoverRecord, HandoverRecord],
    tmp_path: Path,
    change: dict[str, str],
    said: str,
):
    evidence = handed_over(exported, replace(moved[0], **change), moved[1])
    with pytest.raises(CorruptionError, match=said):
        verify(exported_again(exported, evidence, tmp_path / "made-up.zip"))


def test_a_former_key_that_was_stolen_brings_no_second_heir(
    exported: Exported, moved: tuple[HandoverRecord, HandoverRecord], tmp_path: Path
):
    """Whoever has it can sign another handover; the server that helps must leave out the true one, which breaks off."""
    home = exported.file.parent / "client-1"
    stolen = NodeKeys(home).current()
    assert stolen is not None
    thief = handover(exported.evidence.session.project, "client-1", stolen, NodeKey.new(), 3.0)
    with pytest.raises(CorruptionError, match="in two handovers"):
        verify(exported_again(exported, handed_over(exported, *moved, thief), tmp_path / "forked.zip"))
    with pytest.raises(CorruptionError, match="whose key is"):
        verify(
            exported_again(exported, handed_over(exported, thief, moved[1]), tmp_path / "cut.zip"),
            Known(clients={"client-1": moved[1].key}),
        )


def test_a_bundle_from_before_keys_were_changed_is_read(exported: Exported, tmp_path: Path):
    def older(entries: dict[str, bytes]) -> None:
        document = json.loads(entries["bundle.json"])
        assert document.pop("handovers") == []
        manifest = entries["bundle.json"] = json.dumps(document).encode()
        signature = exported.server.sign(bundle_statement(blake3(manifest).hexdigest()))
        entries["signature.json"] = json.dumps({"signer": signature.signer, "value": signature.value}).encode()

    assert verify(rewritten(exported.file, tmp_path / "older.zip", older)).handovers == 0
