"""The schema in proto/, the generated code and the dataclasses say the same."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, get_args, get_origin

import pytest
from google.protobuf.descriptor import FieldDescriptor

from hansa.errors import Reason
from hansa.messages import (
    Contribution,
    EvaluationRules,
    Kind,
    RoundRules,
    RunSpec,
    Sample,
    Signature,
    TransformSpec,
    Value,
)
from hansa.wire import record
from hansa.wire._generated import calls_pb2, control_pb2, values_pb2
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
from hansa.wire.frames import Blob, Counted, FromNode, Present, Receipt, Role, RoundKey, ToNode

ROOT = Path(__file__).resolve().parents[2]
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
    Kept,
)
PARTS = (
    Blob, RoundKey, Present, Contribution, Counted, Receipt, RoundRules, EvaluationRules, RunSpec, Sample,
    Signature, TransformSpec,
)  # fmt: skip
FRAMES = (*get_args(FromNode), *get_args(ToNode))
ENUMS = (Role, Kind, Reason)

RETIRED = {"ROLE_ADMIN"}
"""What the schema keeps, because it only grows, and nothing sends any more."""
NUMBERS = {
    int: {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64},
    float: {FieldDescriptor.TYPE_DOUBLE},
    bool: {FieldDescriptor.TYPE_BOOL},
    str: {FieldDescriptor.TYPE_STRING},
    bytes: {FieldDescriptor.TYPE_BYTES},
}


@pytest.mark.parametrize("kind", [*FRAMES, *PARTS, *CALLS], ids=lambda kind: kind.__name__)
def test_every_dataclass_has_a_message_with_its_fields_and_their_types(kind: type[Any]):
    descriptor = record.message_class(kind.__name__).DESCRIPTOR
    assert {field.name for field in descriptor.fields} == {field.name for field in dataclasses.fields(kind)}
    for field in dataclasses.fields(kind):
        check_field(descriptor.fields_by_name[field.name], field.type)


def check_field(descriptor: Any, annotation: Any) -> None:
    inner = annotation
    if isinstance(annotation, UnionType):
        assert descriptor.has_presence, f"{descriptor.full_name} may be None and must be optional"
        (inner,) = (choice for choice in get_args(annotation) if choice is not NoneType)
    origin, arguments = get_origin(inner), get_args(inner)
    if origin is tuple:
        assert descriptor.is_repeated
        check_single(descriptor, arguments[0])
    elif origin is Mapping and arguments[1] is not Value:
        entry = descriptor.message_type
        assert entry.GetOptions().map_entry
        check_single(entry.fields_by_name["key"], arguments[0])
        check_single(entry.fields_by_name["value"], arguments[1])
    elif origin is Mapping:
        assert descriptor.message_type.full_name == "hansa.v1.ValueMap"
    else:
        assert not descriptor.is_repeated
        check_single(descriptor, inner)


def check_single(descriptor: Any, inner: Any) -> None:
    if dataclasses.is_dataclass(inner):
        assert descriptor.message_type.name == inner.__name__
    elif issubclass(inner, StrEnum):
        assert descriptor.enum_type.name == inner.__name__
    else:
        assert descriptor.type in NUMBERS[inner], descriptor.full_name


@pytest.mark.parametrize("kind", [*FRAMES, *PARTS, *CALLS], ids=lambda kind: kind.__name__)
def test_a_field_that_an_older_peer_leaves_out_reads_as_the_default(kind: type[Any]):
    empty = record.message_class(kind.__name__)()
    readers = {name: read for name, _, read in record.record_of(kind).fields}
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            assert readers[field.name](empty) == field.default, f"make {kind.__name__}.{field.name} `optional`"
        elif field.default_factory is not dataclasses.MISSING:
            assert readers[field.name](empty) == field.default_factory()


@pytest.mark.parametrize("kind", ENUMS, ids=lambda kind: kind.__name__)
def test_every_enum_has_the_same_members_and_an_unspecified_zero(kind: type[StrEnum]):
    prefix = kind.__name__.upper()
    numbers = dict(values_pb2.DESCRIPTOR.enum_types_by_name[kind.__name__].values_by_name)
    assert numbers.pop(f"{prefix}_UNSPECIFIED").number == 0
    assert set(numbers) - RETIRED == {f"{prefix}_{member.name}" for member in kind}


@pytest.mark.parametrize(("name", "union"), [("FromNode", FromNode), ("ToNode", ToNode)])
def test_every_frame_of_the_union_is_in_the_envelope_and_no_other(name: str, union: UnionType):
    (oneof,) = record.message_class(name).DESCRIPTOR.oneofs
    assert {field.message_type.name for field in oneof.fields} == {kind.__name__ for kind in get_args(union)}


def test_every_message_of_the_schema_is_used():
    known = {kind.__name__ for kind in (*FRAMES, *PARTS, *CALLS)}
    known |= {"FromNode", "ToNode", "Chunk", "Value", "Null", "ValueList", "ValueMap", "ValueEntry"}
    assert {
        name for file in (control_pb2, values_pb2, calls_pb2) for name in file.DESCRIPTOR.message_types_by_name
    } == known


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "proto" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", ["hansa/v1", "fedn"])
def test_the_generated_code_is_that_of_the_schema(folder: str) -> None:
    generate = generator()
    assert generate.drift(folder, generate.generate(folder)) == [], "run python proto/generate.py"


def test_a_change_of_the_schema_would_be_noticed():
    generate = generator()
    made = dict(generate.generate("hansa/v1"))
    made["calls_pb2.py"] += "\n"
    del made["control_pb2.py"]
    made["more_pb2.py"] = ""
    assert generate.drift("hansa/v1", made) == ["calls_pb2.py", "control_pb2.py", "more_pb2.py"]


def test_no_number_of_the_schema_is_used_twice_or_moved():
    """The numbers of every field and enum value are the wire: a row here may be added, never changed."""
    numbers = {
        f"{message.name}.{field.name}": field.number
        for file in (control_pb2, values_pb2, calls_pb2)
        for message in file.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    }
    numbers |= {
        value.name: value.number for enum in values_pb2.DESCRIPTOR.enum_types_by_name.values() for value in enum.values
    }
    frozen = dict(line.split() for line in (ROOT / "tests/wire/golden/numbers.txt").read_text().splitlines() if line)
    assert {name: int(number) for name, number in frozen.items()}.items() <= numbers.items()
    assert numbers.keys() == frozen.keys(), "add the new rows to tests/wire/golden/numbers.txt"
