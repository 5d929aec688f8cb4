"""Frames and calls as bytes: they arrive as they were, and hostile bytes are refused with the field's name."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.errors import Reason, WireError
from hansa.messages import Contribution, Kind, RunSpec, Value
from hansa.wire import framing, limits
from hansa.wire._generated import control_pb2
from hansa.wire.calls import (
    AccessRequest,
    AccessToken,
    Assignment,
    AssignRequest,
    CertificateRequest,
    DownloadRequest,
    Enrolled,
    EnrollRequest,
    RotateRequest,
    SignedCertificate,
    UploadReply,
)
from hansa.wire.chunks import INLINE_LIMIT
from hansa.wire.frames import (
    Admission,
    Blob,
    Closed,
    Evaluated,
    FromNode,
    Heartbeat,
    Hello,
    LogLine,
    Offer,
    OpenRound,
    Presence,
    Progress,
    Redirect,
    Role,
    RoundKey,
    Seal,
    Settled,
    TaskFailed,
    ToNode,
    Verdict,
)

CALLS = (
    EnrollRequest,
    Enrolled,
    RotateRequest,
    AccessRequest,
    AccessToken,
    AssignRequest,
    Assignment,
    CertificateRequest,
    SignedCertificate,
    DownloadRequest,
    UploadReply,
)
ROUND = RoundKey("run", 1, Kind.TRAIN)
DIGEST = "0" * 64

# ── round trips ──────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
SCALARS: dict[Any, Any] = {
    int: st.integers(0, 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: NAMES,
    bytes: st.binary(max_size=20),
}


def strategy(annotation: Any) -> Any:
    if annotation in SCALARS:
        return SCALARS[annotation]
    if isinstance(annotation, UnionType):
        return st.one_of(*[st.none() if choice is NoneType else strategy(choice) for choice in get_args(annotation)])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        return st.lists(strategy(arguments[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(NAMES, VALUES if arguments[1] is Value else strategy(arguments[1]), max_size=3)
    if dataclasses.is_dataclass(annotation):
        return instances(annotation)
    return st.sampled_from(annotation)


def instances(kind: Any) -> Any:
    if kind is Blob:
        inline = st.binary(min_size=1, max_size=20)
        return inline.map(lambda data: Blob(DIGEST, len(data), data)) | st.integers(0, 2**64 - 1).map(
            lambda size: Blob("ab" * 32, size)
        )
    fields = {field.name: strategy(field.type) for field in dataclasses.fields(kind)}
    if "digest" in fields:
        fields["digest"] = st.just("ab" * 32) | (st.just("") if kind is Contribution else st.just(DIGEST))
    if kind is Contribution:
        fields["norm"] = st.none() | st.floats(min_value=0, allow_infinity=False)
    return st.builds(kind, **fields)


@pytest.mark.parametrize("kind", get_args(FromNode), ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_a_node_says_is_what_its_parent_reads(kind: type[Any], data: st.DataObject):
    frame = data.draw(instances(kind))
    assert framing.decode_from_node(framing.encode_from_node(frame)) == frame


@pytest.mark.parametrize("kind", get_args(ToNode), ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_a_parent_says_is_what_its_node_reads(kind: type[Any], data: st.DataObject):
    frame = data.draw(instances(kind))
    assert framing.decode_to_node(framing.encode_to_node(frame)) == frame


@pytest.mark.parametrize("kind", CALLS, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_calls_arrive_as_they_were_made(kind: type[Any], data: st.DataObject):
    value = data.draw(instances(kind))
    assert framing.decode_call(kind, framing.encode_call(value)) == value


@given(VALUES)
def test_configuration_values_keep_their_types(value: Value):
    sent = OpenRound(ROUND, RunSpec(config={"key": value}), Blob(DIGEST, 0), ())
    received = framing.decode_to_node(framing.encode_to_node(sent))
    assert isinstance(received, OpenRound)
    assert repr(received.spec.config["key"]) == repr(value)  # repr tells 1 from 1.0 and True, and 0.0 from -0.0


def test_configurations_keep_their_order_so_that_user_code_sees_what_a_simulation_sees():
    config: Mapping[str, Value] = {"z": 1, "a": {"y": 1, "b": 2}}
    sent = OpenRound(ROUND, RunSpec(config=config), Blob(DIGEST, 0), ())
    received = framing.decode_to_node(framing.encode_to_node(sent))
    assert isinstance(received, OpenRound)
    assert str(received.spec.config) == str(config)


def test_numbers_that_are_no_numbers_travel_as_metrics():
    sent = Evaluated(ROUND, "c", 5, {"loss": math.nan, "worst": math.inf})
    received = framing.decode_from_node(framing.encode_from_node(sent))
    assert isinstance(received, Evaluated)
    assert math.isnan(received.metrics["loss"])
    assert received.metrics["worst"] == math.inf


def test_a_frame_has_one_encoding_whatever_the_order_of_its_mappings():
    forth = Hello(Role.CLIENT, "i", "v", (), {"a": "1", "b": "2"})
    back = Hello(Role.CLIENT, "i", "v", (), {"b": "2", "a": "1"})
    assert framing.encode_from_node(forth) == framing.encode_from_node(back)


# ── another version ──────────────────────────────────────────────────────────────────────────────────────────────────

NEWER = bytes([0xFA, 0x3F, 0x03]) + b"new"
"""Field 1023, a string that this version does not know."""


def enveloped(number: int, message: bytes) -> bytes:
    return bytes([number << 3 | 2, len(message)]) + message


@pytest.mark.parametrize(
    "frame", [Heartbeat(), Progress(ROUND, "c", "train", 1.0, 2.0), Hello(Role.CLIENT, "i", "v")], ids=type
)
def test_fields_of_a_newer_peer_are_ignored(frame: Any):
    envelope = control_pb2.FromNode.FromString(framing.encode_from_node(frame))
    name = envelope.WhichOneof("frame")
    inner = getattr(envelope, name).SerializeToString() + NEWER
    number = envelope.DESCRIPTOR.fields_by_name[name].number
    assert framing.decode_from_node(enveloped(number, inner) + NEWER) == frame


def test_a_frame_of_a_newer_peer_is_refused_clearly():
    with pytest.raises(WireError, match=r"FromNode\.frame is missing, or of a newer version"):
        framing.decode_from_node(NEWER)


def test_a_spec_of_an_older_peer_reads_with_todays_defaults():
    empty = control_pb2.OpenRound(key={"run": "r", "round": 1, "kind": 1}, spec={}, model={"digest": DIGEST})
    frame = framing.decode_to_node(enveloped(2, empty.SerializeToString()))
    assert frame == OpenRound(RoundKey("r", 1, Kind.TRAIN), RunSpec(), Blob(DIGEST, 0), ())


# ── hostile bytes ────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.binary(max_size=200))
def test_random_bytes_are_a_frame_or_a_wire_error(data: bytes):
    for decode in (framing.decode_from_node, framing.decode_to_node):
        with contextlib.suppress(WireError):
            decode(data)


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_frame_is_a_frame_or_a_wire_error(data: st.DataObject):
    frame = data.draw(instances(data.draw(st.sampled_from(get_args(ToNode)))))
    raw = bytearray(framing.encode_to_node(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        framing.decode_to_node(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


def from_node(**fields: Any) -> bytes:
    data: bytes = control_pb2.FromNode(**fields).SerializeToString()
    return data


def to_node(**fields: Any) -> bytes:
    data: bytes = control_pb2.ToNode(**fields).SerializeToString()
    return data


KEY = {"run": "r", "round": 1, "kind": 1}
HOSTILE: Sequence[tuple[bytes, str]] = [
    (b"", r"FromNode\.frame is missing"),
    (b"\x0a\xff", "FromNode cannot be read"),
    (enveloped(8, b"\x12\x01\xff"), "cannot be read"),  # Offer.sender is not UTF-8
    (from_node(task_started={"client": "c"}), r"TaskStarted\.key is missing"),
    (from_node(task_started={"key": {"run": "r", "round": 1}}), r"RoundKey\.kind is missing or of a newer version"),
    (from_node(hello={"role": 77}), r"Hello\.role is missing or of a newer version: there is no Role 77"),
    (from_node(settled={"key": KEY, "reason": 99}), r"Settled\.reason .* no Reason 99"),
    (from_node(offer={"key": KEY}), r"Offer\.blob is missing"),
    (from_node(offer={"key": KEY, "blob": {"digest": "../../etc/passwd"}}), r"Blob\.digest is '\.\./\.\./etc/passwd'"),
    (from_node(offer={"key": KEY, "blob": {"digest": "AB" * 32}}), r"Blob\.digest"),
    (
        from_node(offer={"key": KEY, "blob": {"digest": DIGEST, "size": 3, "inline": b"four"}}),
        r"Blob\.inline has 4 bytes",
    ),
    (
        from_node(offer={"key": KEY, "blob": {"digest": DIGEST, "size": 65537, "inline": bytes(65537)}}),
        r"Blob\.inline has 65537 bytes",
    ),
    (
        from_node(offer={"key": KEY, "blob": {"digest": DIGEST}, "contributions": [{"digest": "x"}]}),
        r"Contribution\.digest",
    ),
    (
        from_node(hello={"role": 2, "capabilities": ["x"] * (limits.MAX_ITEMS + 1)}),
        r"Hello\.capabilities has the length 100001, more than 100000",
    ),
    (
        from_node(hello={"role": 2, "labels": {str(n): "" for n in range(limits.MAX_ENTRIES + 1)}}),
        r"Hello\.labels has the length 1001",
    ),
    (from_node(hello={"role": 2, "instance": "x" * 4097}), r"Hello\.instance has the length 4097"),
    (from_node(log_line={"key": KEY, "line": "x" * 65537}), r"LogLine\.line has the length 65537"),
    (from_node(hello={"role": 2, "version": "\0"}), r"Hello\.version has a NUL character"),
    (from_node(hello={"role": 2, "labels": {"\0": ""}}), r"Hello\.labels has a NUL character"),
    (from_node(hello={"role": 2, "labels": {"": "x\0"}}), r"Hello\.labels has a NUL character"),
    (from_node(presence={"left": ["a", "b\0"]}), r"Presence\.left has a NUL character"),
    (from_node(evaluated={"key": KEY, "metrics": {"lo\0ss": 1}}), r"Evaluated\.metrics has a NUL character"),
    (
        from_node(offer={"key": KEY, "blob": {"digest": DIGEST}, "contributions": [{"metrics": {"\0": 1}}]}),
        r"Contribution\.metrics has a NUL character",
    ),
    *(
        (
            from_node(offer={"key": KEY, "blob": {"digest": DIGEST}, "contributions": [{"norm": norm}]}),
            rf"Contribution\.norm is {norm}: a norm is finite",
        )
        for norm in (math.nan, math.inf, -1.0)
    ),
    (bytes(limits.MAX_FRAME + 1), "FromNode has the length"),
]


@pytest.mark.parametrize(("data", "says"), HOSTILE, ids=[says[:30] for _, says in HOSTILE])
def test_what_is_wrong_is_named(data: bytes, says: str):
    with pytest.raises(WireError, match=says):
        framing.decode_from_node(data)


def with_config(value: dict[str, Any]) -> bytes:
    spec = {"config": {"entries": [{"name": "k", "value": value}]}}
    return to_node(open_round={"key": KEY, "spec": spec, "model": {"digest": DIGEST}})


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"integer": 1}
    for _ in range(levels):
        value = {"list": {"items": [value]}}
    return value


def test_a_configuration_within_its_limits_is_read():
    frame = framing.decode_to_node(with_config(nested(limits.MAX_DEPTH - 1)))
    assert isinstance(frame, OpenRound)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, r"RunSpec\.config\['k'\] is missing or of a newer version"),
        (nested(limits.MAX_DEPTH), "levels deep"),
        ({"list": {"items": [{"integer": 1}] * 1000}}, "more than 1000 values"),
        ({"map": {"entries": [{"name": "a", "value": {"integer": 1}}] * 2}}, "has a name twice"),
    ],
    ids=["missing", "deep", "many", "twice"],
)
def test_a_hostile_configuration_is_refused(value: dict[str, Any], says: str):
    with pytest.raises(WireError, match=says):
        framing.decode_to_node(with_config(value))


# ── what cannot be sent ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (Seal(ROUND), "Seal is not a frame of FromNode"),
        (Evaluated(ROUND, "c", 2**63), r"Evaluated\.num_examples cannot be sent"),
        (Evaluated(ROUND, "c", "many"), r"Evaluated\.num_examples cannot be sent"),  # type: ignore[arg-type]
        (Evaluated(ROUND, "c", 1, {"loss": "low"}), r"Evaluated\.metrics cannot be sent"),  # type: ignore[dict-item]
        (Evaluated(None, "c", 1), r"Evaluated\.key cannot be sent"),  # type: ignore[arg-type]
        (Evaluated(ROUND, "\ud800", 1), r"Evaluated\.client cannot be sent"),
        (Evaluated(ROUND, "c", 1, {"lo\0ss": 1.0}), r"Evaluated\.metrics has a NUL character"),
        (Hello(Role.CLIENT, "i\0", "v"), r"Hello\.instance has a NUL character"),
        (Presence(left=("\0",)), r"Presence\.left has a NUL character"),
        (Hello("king", "i", "v"), r"Hello\.role cannot be sent"),  # type: ignore[arg-type]
        (Hello(Role.CLIENT, "i", "v", ("x",) * 100_001), r"Hello\.capabilities has the length"),
        (Offer(ROUND, "c", Blob("beef", 4), ()), r"Blob\.digest is 'beef'"),
        (Offer(ROUND, "c", Blob(DIGEST, INLINE_LIMIT + 1, bytes(INLINE_LIMIT + 1)), ()), "travel inline"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_a_peer_would_refuse_is_not_sent(frame: Any, says: str):
    with pytest.raises(WireError, match=says):
        framing.encode_from_node(frame)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"k": object()}, r"RunSpec\.config\['k'\] is a object; a configuration holds"),
        ({"k": {1}}, "is a set"),
        ({"k": b"x"}, "is a bytes"),
        ({"k": 2**63}, r"RunSpec\.config cannot be sent"),
        ({"k": {1: 1}}, r"RunSpec\.config"),
        ({"k": list(range(1000))}, "more than 1000 values"),
    ],
    ids=["object", "set", "bytes", "large", "number", "many"],
)
def test_a_configuration_that_does_not_travel_is_named(config: Any, says: str):
    with pytest.raises(WireError, match=says):
        framing.encode_to_node(OpenRound(ROUND, RunSpec(config=config), Blob(DIGEST, 0), ()))


def test_whatever_user_code_prints_can_be_sent():
    sent = LogLine(ROUND, "c", "half a pair \ud83d and a lot: " + "x" * 100_000 + " the end")
    received = framing.decode_from_node(framing.encode_from_node(sent))
    assert isinstance(received, LogLine)
    assert received.line.startswith("half a pair ? and a lot: xxx")
    assert received.line.endswith("x the end")
    assert " […] " in received.line
    assert len(received.line) <= limits.MAX_TEXT


def test_a_nul_in_text_for_people_is_shown_as_one_whoever_sent_it():
    sent = framing.encode_from_node(LogLine(ROUND, "c", "a\0b"))
    assert b"a\0b" not in sent
    for data in (sent, from_node(log_line={"key": KEY, "client": "c", "line": "a\0b"})):
        received = framing.decode_from_node(data)
        assert isinstance(received, LogLine)
        assert received.line == "a\u2400b"


def test_a_traceback_of_any_length_keeps_its_first_and_its_last_lines():
    sent = TaskFailed(ROUND, "c", "raised", "Traceback\n" + "  deeper\n" * 50_000 + "RecursionError")
    received = framing.decode_from_node(framing.encode_from_node(sent))
    assert isinstance(received, TaskFailed)
    assert received.traceback.startswith("Traceback\n  deeper")
    assert received.traceback.endswith("deeper\nRecursionError")


def test_the_offer_of_ten_thousand_contributors_fits():
    many = tuple(Contribution(f"client-{n}", 10, {"loss": 0.5, "accuracy": 0.9}, DIGEST) for n in range(10_000))
    frame = Offer(ROUND, "combiner-1", Blob(DIGEST, 10**9), many, partial=True, weight=100_000)
    data = framing.encode_from_node(frame)
    assert len(data) < limits.MAX_FRAME / 5
    assert framing.decode_from_node(data) == frame


def test_frames_of_every_kind_are_small():
    assert len(framing.encode_from_node(Heartbeat())) == 2
    assert len(framing.encode_to_node(Verdict(ROUND, "client-0", True))) < 40
    assert len(framing.encode_to_node(Closed(ROUND))) < 20
    assert len(framing.encode_to_node(Redirect("why"))) < 20
    assert len(framing.encode_to_node(Admission(ROUND, "c", "u", 1 << 40))) < 40
    assert len(framing.encode_from_node(Presence(left=("c",)))) < 10
    assert len(framing.encode_from_node(Settled(ROUND, "c", False, 0, Reason.LATE))) < 30
