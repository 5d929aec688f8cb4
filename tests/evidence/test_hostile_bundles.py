"""A bundle comes from a stranger: whatever stands in it, who checks it hears what is wrong and sees no traceback."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hansa.errors import HansaError, InputError
from hansa.evidence.documents import from_json, to_json
from hansa.evidence.receipts import Receipt, keep_receipt, read_receipts
from hansa.evidence.record import Evidence
from hansa.evidence.verification import verify_record
from hansa.messages import Kind, RunSpec
from hansa.network.node_keys import handover
from hansa.store.link import linked, round_link
from hansa.store.records import (
    ContributionRecord,
    EvaluationRecord,
    EventRecord,
    MetricRecord,
    ModelRecord,
    RoundRecord,
    SessionRecord,
    SessionState,
)
from hansa.wire.node_key import NodeKey

HOSTILE: list[Any] = [
    None, True, -1, 0, 2**63, -(2**80), 10**400, 1.5, 1e308, {"$float": "nan"}, {"$float": "inf"}, "", "x", "\ud800",
    "a\0b", "x" * 100_000, [], [[]], {}, {"round": [1]}, {"round": True, "metrics": 1}, {"a": "b"}, {"a": 10**400},
    {"$unknown": 1}, {"metrics": {"a": "b"}, "round": 1}, {"signature": [], "head": {}},
]  # fmt: skip

HANDOVER = handover("default", "c", NodeKey.new(), NodeKey.new(), 1.0)


def evidence() -> Evidence:
    """As a stranger may make it up: every hash is right, no signature is."""
    session = SessionRecord(
        "s", "default", "run", RunSpec(), SessionState.FINISHED, 1.0, seed_model="0" * 64, round=1, model="1" * 64
    )
    part = ContributionRecord(
        "s/1/c", "default", "s", 1, "c", "accepted", 3, "d" * 64, metrics={"loss": 0.5}, signer="k", signature="x"
    )
    row = RoundRecord(
        "s/1", "default", "s", 1, "0" * 64, "1" * 64, "", 1, 0, 0, 0, 3, 1.0, 2.0, {"loss": 0.5},
        broadcast="0" * 64, run="r", journal="", signer="k", signature="x",
    )  # fmt: skip
    event = EventRecord(1, "default", "s", "round.evaluated", "said", 1.0, {"round": 1, "metrics": {"acc": 0.5}})
    return Evidence(
        session,
        (row,),
        (part,),
        (EvaluationRecord("s/1/c", "default", "s", 1, "c", 5, "1" * 64, 1.0, {"acc": 0.5}, "k", "x"),),
        (MetricRecord("m", "default", "s", 1, Kind.EVALUATE, "acc", 0.5, 5, "c", 1.0),),
        (ModelRecord("1" * 64, "default", "s", 1, "0" * 64, 10, 1.0),),
        (linked(None, event),),
        (HANDOVER,),
    )


KINDS = {field.name: type(getattr(evidence(), field.name)) for field in fields(Evidence)}


def places() -> list[tuple[str, str]]:
    whole = evidence()
    rows = {"session": whole.session} | {name: getattr(whole, name)[0] for name in KINDS if name != "session"}
    return [(name, field.name) for name, row in rows.items() for field in fields(row)]


@pytest.mark.parametrize(("name", "field"), places(), ids=str)
def test_no_value_in_any_field_makes_the_check_fail_in_itself(name: str, field: str) -> None:
    whole = evidence()
    row = whole.session if name == "session" else getattr(whole, name)[0]
    for value in HOSTILE:
        document = to_json(row) | {field: value}
        try:
            read = from_json(type(row), document)
            made = {each.name: getattr(whole, each.name) for each in fields(Evidence)}
            made[name] = read if name == "session" else (read,)
            tampered = Evidence(**made)
            found = verify_record(relinked(tampered))
        except HansaError:
            continue
        assert (found.updates, found.reports) == (0, 0), value  # nothing of it is signed by anybody
        assert found.unsigned, value


def relinked(made: Evidence) -> Evidence:
    """With hashes that are right, so that what comes after them is reached; as they are where that cannot be."""
    values = {each.name: getattr(made, each.name) for each in fields(Evidence)}
    try:
        (row,), (event,) = made.rounds, made.events
        values["events"] = (linked(None, event),)
        link = round_link("", row, made.contributions)
        values["rounds"] = (type(row)(**{each.name: getattr(row, each.name) for each in fields(row)} | {"link": link}),)
    except HansaError:
        return made
    return Evidence(**values)


@pytest.mark.parametrize("line", ["", "[]", "{}", "{", "1", '{"at": 1}', "[" * 100_000, "\x00"])
def test_a_line_that_is_no_receipt_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "receipts.jsonl"
    good = Receipt("2026-01-01T00:00:00+00:00", "s", 1, "c", 3, "d" * 64, "l" * 64, "k", "x")
    keep_receipt(file, good)
    assert read_receipts(file) == [good]
    with file.open("a") as more:
        more.write(f"{line}\n")
    with pytest.raises(InputError, match=r"line 2 of .* is no receipt"):
        read_receipts(file)


def test_what_is_written_is_read_again_with_every_bit() -> None:
    whole = evidence()
    for name in KINDS:
        row = whole.session if name == "session" else getattr(whole, name)[0]
        assert from_json(type(row), json.loads(json.dumps(to_json(row)))) == row
