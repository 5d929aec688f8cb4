"""What v1 looked like on the wire stays readable: bytes captured once, decoded and encoded by today's code.

A capture is never changed. When a frame gains a field, move its row from `NEWEST` to `OLDER` under a new name (rename
the file too, `hello` → `hello-1`): its bytes must still decode, to a value that has the field's default. Then add a row
with the field set, and capture it:

    python tests/wire/test_golden.py        writes the captures that are missing, and nothing else
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import ml_dtypes
import numpy as np
import pytest

from hansa.algorithm import Partial
from hansa.arrays import Arrays
from hansa.compression.mask import drawn
from hansa.errors import Reason
from hansa.messages import (
    Contribution,
    EvaluationRules,
    Kind,
    Packing,
    RoundRules,
    RunSpec,
    Sample,
    Signature,
    TransformSpec,
    Update,
)
from hansa.wire import chunks, codec, framing, packing
from hansa.wire.calls import (
    AccessRequest,
    AccessToken,
    Assignment,
    AssignRequest,
    DownloadRequest,
    Enrolled,
    EnrollRequest,
    Kept,
    RotateRequest,
    UploadReply,
)
from hansa.wire.frames import (
    Admission,
    Awaited,
    Blob,
    Closed,
    Counted,
    Dismiss,
    Evaluated,
    FromNode,
    Heartbeat,
    Hello,
    Letter,
    LogLine,
    Offer,
    OpenRound,
    Predicted,
    Presence,
    Present,
    Progress,
    Receipt,
    Redirect,
    Role,
    RoundKey,
    Samples,
    Seal,
    SendOn,
    Settled,
    TaskFailed,
    TaskStarted,
    ToNode,
    Verdict,
    Welcome,
    Withdraw,
)

FOLDER = Path(__file__).parent / "golden"


class Capture(NamedTuple):
    value: Any
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def up(value: FromNode) -> Capture:
    return Capture(value, framing.encode_from_node, framing.decode_from_node)


def down(value: ToNode) -> Capture:
    return Capture(value, framing.encode_to_node, framing.decode_to_node)


def call(value: Any) -> Capture:
    return Capture(value, framing.encode_call, lambda data: framing.decode_call(type(value), data))


SIGNATURE = Signature("ed25519:" + "3a" * 32, "9c" * 64)
ROUND = RoundKey("run-7f3a", 3, Kind.TRAIN)
EVALUATION = RoundKey("run-7f3a", 3, Kind.EVALUATE)
PREDICTION = RoundKey("p-7f3a", 1, Kind.PREDICT)
PROGRAM = RoundKey("run-7f3a", 1, Kind.PROGRAM)
ALICE = Contribution("alice", 120, {"accuracy": 0.75, "loss": math.inf}, "a1" * 32)
BOB = Contribution("bob", 2**40, {}, "")
MODEL = Arrays(
    {
        "layer.weight": np.array([[1.5, -2.0, 0.1]], np.float32),
        "layer.bias": np.array([0.5], ml_dtypes.bfloat16),
        "steps": np.array(12, np.int64),
        "seen": np.array([True, False]),
        "empty": np.zeros((0, 2)),
    }
)
SUMS = {"layer.weight": np.array([[-(2**62), 0, 5]])}
SPEC = RunSpec(
    name="digits",
    project="stroke",
    algorithm="fedadam",
    algorithm_options={"learning_rate": 0.01, "beta1": 0.9},
    aggregator="trimmed",
    aggregator_options={"share": 0.25},
    rounds=20,
    seed=-1,
    rules=RoundRules("fraction", None, 0.5, 3, 2, 5, 120.0, 7.5, False),
    evaluation=EvaluationRules(0, 0.25, False, False),
    max_weight=2**20,
    range_bits=4,
    config={"epochs": 2, "rate": 1.0, "on": True, "none": None, "list": [1, "two", {"three": [3.0]}], "name": "Å"},
    transforms=(TransformSpec("clip", {"norm": 0.5}), TransformSpec("quantize")),
)

ROW = np.arange(600, dtype=np.float32)
SEED = bytes(range(32))
PACKED = Update(
    {
        "eight": (ROW % 255 - 127) * np.float32(0.5),
        "four": (ROW % 15 - 7) * np.where(ROW < 512, np.float32(0.25), np.float32(2.0)),
        "sparse": np.where(ROW % 50 == 0, ROW, np.float32(0)),
        "sparse:eight": np.where(ROW % 25 == 0, np.float32(-3.0), np.float32(0)).reshape(20, 30),
        "drawn": np.where(drawn(SEED, "drawn", 600, 2**30), ROW, np.float32(0)),
        "drawn four": np.where(drawn(SEED, "drawn four", 600, 2**30), np.float32(6), np.float32(0)),
        "plain": np.array([1.5, -2.0], np.float64),
        "steps": np.array([7]),
    },
    1,
    packing={
        "eight": Packing(bits=8, steps=np.array([0.5], np.float32)),
        "four": Packing(bits=4, steps=np.array([0.25, 2.0], np.float32)),
        "sparse": Packing(sparse=True),
        "sparse:eight": Packing(sparse=True, bits=8, steps=np.array([3.0], np.float32)),
        "drawn": Packing(seed=SEED, share=2**30),
        "drawn four": Packing(seed=SEED, share=2**30, bits=4, steps=np.array([1.0], np.float32)),
    },
)

NEWEST: dict[str, Capture] = {
    "hello": up(Hello(Role.COMBINER, "f00d", "0.1.0", ("zstd",), {"region": "north"}, "combiner-1:7433")),
    "heartbeat": up(Heartbeat()),
    "presence": up(
        Presence(
            (Present("alice", {"gpu": "1"}, "combiner-1"),),
            ("bob",),
            (Present("combiner-2", {"address": "c2:7433"}, "combiner-1"),),
        )
    ),
    "presence_granted": up(Presence((Present("alice", {}, "combiner-1", "9f" * 16),))),
    "task_started": up(TaskStarted(ROUND, "alice")),
    "progress": up(Progress(ROUND, "alice", "train", 3.0, 10.0)),
    "task_failed_goes_on": up(TaskFailed(PROGRAM, "alice", "ValueError: no data", "Traceback …", goes_on=True)),
    "task_failed": up(TaskFailed(EVALUATION, "alice", "the app raised ValueError", "Traceback …")),
    "evaluated": up(Evaluated(EVALUATION, "alice", 40, {"accuracy": 0.5})),
    "evaluated_signed": up(Evaluated(EVALUATION, "alice", 40, {"accuracy": 0.5}, SIGNATURE)),
    "offer_signed": up(
        Offer(ROUND, "alice", Blob("a1" * 32, 4, b"\0\1\2\3"), (replace(ALICE, signature=SIGNATURE),), base="c3" * 32)
    ),
    "offer": up(Offer(ROUND, "alice", Blob("a1" * 32, 4, b"\0\1\2\3"), (ALICE,))),
    "offer_partial": up(Offer(ROUND, "combiner-1", Blob("b2" * 32, 2**33), (ALICE, BOB), True, 2**40 + 120)),
    "offer_partial_bases": up(
        Offer(
            ROUND, "combiner-1", Blob("b2" * 32, 9), (replace(ALICE, base=1), replace(BOB, base=3)), True, 2**40 + 120
        )
    ),
    "offer_partial_norms": up(
        Offer(ROUND, "combiner-1", Blob("b2" * 32, 9), (replace(ALICE, norm=0.25), BOB), True, 2**40 + 120)
    ),
    "settled": up(Settled(ROUND, "alice", False, 120, Reason.NOT_FINITE, "'w' holds NaN")),
    "log_line": up(LogLine(ROUND, "alice", "epoch 1: 0.25", "warning")),
    "predicted": up(Predicted(PREDICTION, "alice", b'{"mean": 0.5}')),
    "samples": up(Samples("alice", (Sample("loss", 0.25, 40, 1.5e9), Sample("cpu", math.inf)), ROUND)),
    "samples_machine": up(Samples("alice", (Sample("cpu", 0.5, 0, 1.5e9),))),
    "letter": up(Letter(PROGRAM, 0, 2, 7, Blob("a1" * 32, 4, b"\0\1\2\3"))),
    "awaited": up(Awaited(PROGRAM, 2, 0, 7, 12, 11)),
    "awaited_dispensable": up(Awaited(PROGRAM, 2, 0, 7, 12, 11, dispensable=True)),
    "welcome": down(Welcome("root", 5.0, "-----BEGIN PUBLIC KEY-----\n")),
    "open_round": down(OpenRound(ROUND, SPEC, Blob("c3" * 32, 3, b"abc"), ("alice", "bob"), Blob("d4" * 32, 9))),
    "open_round_counted": down(
        OpenRound(ROUND, SPEC, Blob("c3" * 32, 3, b"abc"), ("alice",), None, (Counted("alice", 6, "e5" * 32),))
    ),
    "open_round_defaults": down(OpenRound(ROUND, RunSpec(), Blob("c3" * 32, 0), ())),
    "open_round_program": down(
        OpenRound(PROGRAM, RunSpec(parties=("bank", "central")), Blob("c3" * 32, 0), ("bank",), Blob("d4" * 32, 9))
    ),
    "open_round_functions": down(
        OpenRound(ROUND, RunSpec(functions=("aggregate", "select")), Blob("c3" * 32, 0), ("alice",))
    ),
    "open_round_chosen": down(
        OpenRound(
            ROUND,
            RunSpec(rules=RoundRules(only=("alice", "bob"), labels=("region=eu", "gpu=yes"))),
            Blob("c3" * 32, 0),
            ("alice",),
        )
    ),
    "letter_down": down(Letter(PROGRAM, 0, 2, 7, Blob("a1" * 32, 2**30))),
    "open_round_open": down(
        OpenRound(ROUND, RunSpec(), Blob("c3" * 32, 9), ("alice",), None, (), 5, Blob("d4" * 32, 3, b"abc"))
    ),
    "withdraw": down(Withdraw(ROUND, "alice", "the session was stopped")),
    "admission": down(Admission(ROUND, "alice", "u-1", 2**21)),
    "verdict": down(Verdict(ROUND, "alice", False, Reason.LATE, "the round had closed")),
    "verdict_stale": down(Verdict(ROUND, "alice", False, Reason.STALE, "its model is 9 rounds old")),
    "verdict_sum": down(Verdict(ROUND, "west", False, Reason.LATE, "it fell silent", "a1" * 32)),
    "verdict_accepted": down(Verdict(ROUND, "alice", True)),
    "seal": down(Seal(ROUND)),
    "closed": down(Closed(ROUND, ("alice", "bob"), "")),
    "closed_receipt": down(Closed(ROUND, ("alice",), "", Receipt("d4" * 32, SIGNATURE))),
    "closed_receipt_round": down(Closed(ROUND, ("alice",), "", Receipt("d4" * 32, SIGNATURE, 7))),
    "redirect": down(Redirect("the server is stopping", True)),
    "send_on": down(SendOn("alice", "there is a better server for this client now")),
    "dismiss": down(Dismiss("alice", "9f" * 16, "alice was revoked")),
    "enroll_request": call(EnrollRequest("ed25519:" + "a1" * 32, "b2" * 64)),
    "enrolled": call(Enrolled("alice")),
    "rotate_request": call(RotateRequest("ed25519:" + "c3" * 32, "b2" * 64, "d4" * 64)),
    "access_request": call(AccessRequest()),
    "access_token": call(AccessToken("header.claims.signature", 900.0)),
    "assign_request": call(AssignRequest("combiner-2", {"region": "north"})),
    "assignment": call(Assignment("combiner-2", "c2.example.org:7433")),
    "download_request": call(DownloadRequest("c3" * 32, 2**20)),
    "letter_call": call(Letter(PROGRAM, 0, 2, 7, Blob("a1" * 32, 2**30))),
    "awaited_call": call(Awaited(PROGRAM, 2, 0, 7, 12, 11)),
    "kept": call(Kept(8)),
    "upload_reply": call(UploadReply(2**21)),
    "model": Capture(MODEL, lambda value: b"".join(codec.encode(value)), codec.decode),
    "partial": Capture(
        Partial(SUMS, 2**40 + 120, {"alice": ALICE, "bob": BOB}),
        lambda value: b"".join(codec.encode_partial(value)),
        lambda data: codec.decode_partial(data, (ALICE, BOB), 2**40 + 120),
    ),
    "packed": Capture(
        PACKED,
        lambda value: b"".join(packing.pack(value)),
        lambda data: Update(packing.unpack(data, packing.outline(PACKED.arrays)), 1, packing=PACKED.packing),
    ),
    "chunk": Capture((2**21, b"weights"), lambda value: chunks.frame(*value), chunks.unframe),
}

WITHOUT_TRANSFORMS = replace(SPEC, transforms=())
WITHOUT_AGGREGATOR = replace(WITHOUT_TRANSFORMS, aggregator="mean", aggregator_options={})

OLDER: dict[str, Capture] = {
    "open_round_without_transforms": down(
        OpenRound(ROUND, WITHOUT_TRANSFORMS, Blob("c3" * 32, 3, b"abc"), ("alice", "bob"), Blob("d4" * 32, 9))
    ),
    "open_round_counted_without_transforms": down(
        OpenRound(
            ROUND, WITHOUT_TRANSFORMS, Blob("c3" * 32, 3, b"abc"), ("alice",), None, (Counted("alice", 6, "e5" * 32),)
        )
    ),
    "open_round_without_aggregator": down(
        OpenRound(ROUND, WITHOUT_AGGREGATOR, Blob("c3" * 32, 3, b"abc"), ("alice", "bob"), Blob("d4" * 32, 9))
    ),
    "open_round_counted_without_aggregator": down(
        OpenRound(
            ROUND, WITHOUT_AGGREGATOR, Blob("c3" * 32, 3, b"abc"), ("alice",), None, (Counted("alice", 6, "e5" * 32),)
        )
    ),
    "open_round_defaults_without_aggregator": NEWEST["open_round_defaults"],
}
"""Captures of earlier versions: they decode to these values of today, whose encoding has become another."""


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Partial):
        return (Arrays(left.sums), left.weight, left.contributions) == (
            Arrays(right.sums),
            right.weight,
            right.contributions,
        )
    if isinstance(left, Update):
        return bool(left.arrays == right.arrays)
    return bool(left == right)


@pytest.mark.parametrize("name", [*NEWEST, *OLDER])
def test_a_capture_decodes_to_its_value(name: str):
    capture = (NEWEST | OLDER)[name]
    assert same(capture.decode((FOLDER / f"{name}.bin").read_bytes()), capture.value)


@pytest.mark.parametrize("name", NEWEST)
def test_the_value_encodes_to_the_capture(name: str):
    capture = NEWEST[name]
    assert capture.encode(capture.value) == (FOLDER / f"{name}.bin").read_bytes()


def test_every_frame_and_call_has_a_capture():
    kinds = {type(capture.value) for capture in NEWEST.values()}
    assert kinds >= {*get_args(FromNode), *get_args(ToNode), AssignRequest, Assignment, DownloadRequest, UploadReply}


def test_every_capture_on_disk_is_read():
    assert {path.stem for path in FOLDER.glob("*.bin")} == {*NEWEST, *OLDER}


def test_the_content_address_of_a_model_has_not_moved():
    assert codec.digest(MODEL) == "4aebbda5a835eef0ea15853d9fc4bab7949d7496c2394cd259d0a32fb48d8da8"


if __name__ == "__main__":
    for name, capture in NEWEST.items():
        target = FOLDER / f"{name}.bin"
        if not target.exists():
            target.write_bytes(capture.encode(capture.value))
            print(f"captured {target}")  # noqa: T201 - a command
