"""Hostile but valid messages of hansa.v1, made from its descriptors: a new field is hostile from its first day."""

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from hansa.wire._generated import calls_pb2, control_pb2, values_pb2

__all__ = ["LETTER", "RPCS", "messages"]

RPCS = {
    "Control/Attach": ("stream_stream", control_pb2.FromNode),
    "Directory/Enroll": ("unary_unary", calls_pb2.EnrollRequest),
    "Directory/Access": ("unary_unary", calls_pb2.AccessRequest),
    "Directory/Rotate": ("unary_unary", calls_pb2.RotateRequest),
    "Directory/Assign": ("unary_unary", calls_pb2.AssignRequest),
    "Directory/Certify": ("unary_unary", calls_pb2.CertificateRequest),
    "Transfer/Download": ("unary_stream", calls_pb2.DownloadRequest),
    "Transfer/Upload": ("stream_unary", calls_pb2.Chunk),
    "Relay/Send": ("stream_unary", calls_pb2.Chunk),
    "Relay/Receive": ("unary_stream", control_pb2.Awaited),
}
"""Method → (its kind, the class of what it is sent)."""

DIGEST = "0" * 64
LETTER = control_pb2.Letter(
    key=values_pb2.RoundKey(run="x", round=1, kind=3), sender=2**62, number=2**62, blob=values_pb2.Blob(digest=DIGEST)
).SerializeToString()
"""Which letter is sent."""
TEXTS = [
    "", "ward", "villain", "root", "central", "default", DIGEST, DIGEST.upper(), "../../etc/passwd", "/dev/zero",
    "\0", "a\nb", "%s%n", "é" * 2000, "x" * 4096, "x" * 70_000, "http://127.0.0.1:1/", "\u202e", "$(id)",
]  # fmt: skip
DOUBLES = [0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e308, 5e-324]
BYTES = [b"", b"\0", b"x" * 65_536, b"\xff" * 100, bytes(70_000)]
_VALUES: dict[int, list[Any]] = {
    FieldDescriptor.CPPTYPE_STRING: TEXTS,
    FieldDescriptor.CPPTYPE_BOOL: [False, True],
    FieldDescriptor.CPPTYPE_DOUBLE: DOUBLES,
    FieldDescriptor.CPPTYPE_ENUM: [0, 1, 2, 3, 99, -1, 2**31 - 1],
    FieldDescriptor.CPPTYPE_INT32: [0, 1, -1, 2**31 - 1, -(2**31)],
    FieldDescriptor.CPPTYPE_INT64: [0, 1, -1, 2**63 - 1, -(2**63)],
    FieldDescriptor.CPPTYPE_UINT32: [0, 1, 2**32 - 1],
    FieldDescriptor.CPPTYPE_UINT64: [0, 1, 65_537, 2**63, 2**64 - 1],
}


def messages(descriptor: Descriptor, runs: tuple[str, ...] = (), depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Fields of a message, to be given to its class. runs: sessions that there are; depth: how deep it lies."""
    left_out = st.nothing() if descriptor.name in {"FromNode", "RoundKey", "Offer"} else st.none()
    fields = {field.name: _field(field, runs, depth) | left_out for field in descriptor.fields}
    oneof = {field.name for group in descriptor.oneofs for field in group.fields if len(group.fields) > 1}
    common = {name: value for name, value in fields.items() if name not in oneof}
    made = st.fixed_dictionaries(common) if common else st.just({})
    if oneof:
        one = st.sampled_from(sorted(oneof)).flatmap(lambda name: fields[name].map(lambda value: {name: value}))
        made = st.tuples(made, one).map(lambda pair: {**pair[0], **pair[1]})
    return made.map(lambda given: {name: value for name, value in given.items() if value is not None})


def _field(field: Any, runs: tuple[str, ...], depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        keys, values = (_scalar(entry[name], runs) for name in ("key", "value"))
        return st.dictionaries(keys, values, max_size=3)
    one = _scalar(field, runs) if field.message_type is None else _nested(field, runs, depth)
    return st.lists(one, max_size=3) | _many(one) if field.is_repeated else one


def _many(one: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """The same over and over: a name twice, and lists longer than a list may be."""
    return st.tuples(one, st.sampled_from([2, 1001, 100_001])).map(
        lambda pair: [pair[0]] * (pair[1] if len(str(pair[0])) < 100 else 2)
    )


def _nested(field: Any, runs: tuple[str, ...], depth: int) -> st.SearchStrategy[Any]:
    if depth > 4:
        return st.just({})
    return st.deferred(lambda: messages(field.message_type, runs, depth + 1))


def _scalar(field: Any, runs: tuple[str, ...]) -> st.SearchStrategy[Any]:
    if field.name == "run" and runs:
        return st.sampled_from([*runs, *TEXTS[:8]])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.sampled_from(BYTES)
    return st.sampled_from(_VALUES[field.cpp_type])
