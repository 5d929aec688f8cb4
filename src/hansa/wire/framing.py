"""Frames and calls as protobuf bytes.

Bytes that are not what they should be raise `WireError` with the field's name, and so does a frame that a peer would
refuse. Text for people can always be sent, because the output of user code must not be able to break a node's only
stream (`record.FREE_TEXT`).
"""

import re
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, Final, TypeAlias, TypeVar, cast, get_args

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

from hansa.errors import WireError
from hansa.wire.calls import (
    AccessRequest,
    AccessToken,
    Assignment,
    AssignRequest,
    CertificateRequest,
    DownloadRequest,
    Enrolled,
    EnrollRequest,
    Kept,
    RotateRequest,
    SignedCertificate,
    UploadReply,
)
from hansa.wire.frames import Awaited, FromNode, Letter, ToNode
from hansa.wire.limits import MAX_FRAME, check_length
from hansa.wire.record import Record, message_class, record_of

__all__ = [
    "decode_call",
    "decode_from_node",
    "decode_to_node",
    "encode_call",
    "encode_from_node",
    "encode_to_node",
]

T = TypeVar("T")
_Message: TypeAlias = Any
_Call: TypeAlias = (
    EnrollRequest
    | Enrolled
    | RotateRequest
    | AccessRequest
    | AccessToken
    | AssignRequest
    | Assignment
    | CertificateRequest
    | SignedCertificate
    | DownloadRequest
    | UploadReply
    | Kept
    | Letter
    | Awaited
)

_UNIONS: Final[Mapping[str, UnionType]] = {"FromNode": FromNode, "ToNode": ToNode}


def encode_from_node(frame: FromNode) -> bytes:
    """The bytes of a `hansa.v1.FromNode`."""
    return _encode_frame("FromNode", frame)


def decode_from_node(data: bytes) -> FromNode:
    """The frame in the bytes of a `hansa.v1.FromNode`."""
    return cast("FromNode", _decode_frame("FromNode", data))


def encode_to_node(frame: ToNode) -> bytes:
    """The bytes of a `hansa.v1.ToNode`."""
    return _encode_frame("ToNode", frame)


def decode_to_node(data: bytes) -> ToNode:
    """The frame in the bytes of a `hansa.v1.ToNode`."""
    return cast("ToNode", _decode_frame("ToNode", data))


def encode_call(value: _Call) -> bytes:
    """The bytes of the request or reply of a call."""
    record = record_of(type(value))
    message = record.message()
    record.write(message, value)
    return _serialized(message)


def decode_call(kind: type[T], data: bytes) -> T:
    """The request or reply of this class in the bytes."""
    record = record_of(kind)
    return cast("T", record.read(_parsed(record.message, data)))


@cache
def _members(envelope: str) -> tuple[Any, Mapping[type[Any], str], Mapping[str, Record]]:
    """(message class, class of a frame → its field's name, name → record)."""
    names = {kind: re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower() for kind in get_args(_UNIONS[envelope])}
    return message_class(envelope), names, {name: record_of(kind) for kind, name in names.items()}


def _encode_frame(envelope: str, frame: Any) -> bytes:
    kind, names, records = _members(envelope)
    name = names.get(type(frame))
    if name is None:
        raise WireError(f"{type(frame).__name__} is not a frame of {envelope}")
    message = kind()
    nested = getattr(message, name)
    nested.SetInParent()
    records[name].write(nested, frame)
    return _serialized(message)


def _decode_frame(envelope: str, data: bytes) -> Any:
    kind, _, records = _members(envelope)
    message = _parsed(kind, data)
    name = message.WhichOneof("frame")
    if name is None:
        raise WireError(f"{envelope}.frame is missing, or of a newer version than this one")
    return records[name].read(getattr(message, name))


def _serialized(message: _Message) -> bytes:
    data = cast("bytes", message.SerializeToString(deterministic=True))
    if len(data) > MAX_FRAME:
        check_length(len(data), MAX_FRAME, message.DESCRIPTOR.name)
    return data


def _parsed(kind: Any, data: bytes) -> _Message:
    if len(data) > MAX_FRAME:
        check_length(len(data), MAX_FRAME, kind.DESCRIPTOR.name)
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise WireError(f"{len(data)} bytes that should be a {kind.DESCRIPTOR.name} cannot be read: {error}") from error
