import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.errors import InputError, StorageError
from hansa.messages import EvaluationRules, RoundRules, RunSpec, TransformSpec
from hansa.store.records import SessionRecord, SessionState
from hansa.store.rows import decode_value, encode_value, from_row, spec_from_json, spec_to_json, to_row
from hansa.store.schema import TABLES, field_types

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(texts | st.sampled_from(["$float", "$tuple", "$mapping", "$"]), inner, max_size=3)
    ),
    max_leaves=8,
)
mappings = st.dictionaries(texts, values, max_size=3)
rules = st.builds(
    RoundRules,
    selection=texts,
    count=st.none() | st.integers(),
    fraction=st.none() | st.floats(0, 1),
    deadline=st.floats(allow_nan=False),
    replace_failed=st.booleans(),
)
specs = st.builds(
    RunSpec,
    name=texts,
    algorithm_options=mappings,
    aggregator=texts,
    aggregator_options=mappings,
    seed=st.integers(),
    rules=rules,
    evaluation=st.builds(EvaluationRules, every=st.integers(), fraction=st.floats(0, 1), central=st.booleans()),
    config=mappings,
    transforms=st.lists(st.builds(TransformSpec, texts, mappings), max_size=2).map(tuple),
)


@given(specs)
def test_a_spec_survives_json_with_the_types_of_its_values(spec: RunSpec):
    document = json.loads(json.dumps(spec_to_json(spec), allow_nan=False))

    assert repr(spec_from_json(document)) == repr(spec)


@given(values)
def test_a_value_survives_json_with_its_type(value: object):
    assert repr(decode_value(json.loads(json.dumps(encode_value(value), allow_nan=False)))) == repr(value)


def test_nan_is_written_as_json_that_any_reader_takes():
    assert encode_value({"loss": math.nan, "max": -math.inf}) == {"loss": {"$float": "nan"}, "max": {"$float": "-inf"}}
    assert math.isnan(decode_value({"$float": "nan"}))


def test_what_a_document_leaves_out_has_its_default():
    assert spec_from_json({"name": "old", "rules": {"quorum": 2}}) == RunSpec(name="old", rules=RoundRules(quorum=2))


@pytest.mark.parametrize(
    ("path", "says"),
    [((), "spec has the field 'tempo'"), (("rules",), r"spec\.rules has"), (("evaluation",), r"spec\.evaluation has")],
)
def test_a_field_of_a_newer_version_is_refused_by_name(path: tuple[str, ...], says: str):
    document = spec_to_json(RunSpec())
    place = document
    for step in path:
        place = place[step]
    place["tempo"] = 3

    with pytest.raises(StorageError, match=says):
        spec_from_json(document)


def test_a_nested_object_that_is_none_is_refused():
    with pytest.raises(StorageError, match=r"spec\.rules should be a JSON object"):
        spec_from_json({"rules": 3})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"a": b"x"}, r"spec\.config\['a'\] is a bytes"),
        ({"a": [1, {1, 2}]}, r"spec\.config\['a'\]\[1\] is a set"),
        ({"a": {1: 2}}, r"spec\.config\['a'\] has the key 1"),
        ({"a": "\0"}, "NUL"),
        ({"\ud800": 1}, "Unicode"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(config: dict[str, object], says: str):
    with pytest.raises(InputError, match=says):
        spec_to_json(RunSpec(config=config))


def test_a_row_with_a_state_of_a_newer_version_is_refused(sample_session: SessionRecord):
    row = to_row(sample_session) | {"state": "paused"}

    with pytest.raises(StorageError, match="'paused' is not a valid SessionState"):
        from_row(type(sample_session), row)


def test_a_row_with_a_mark_of_a_newer_version_is_refused(sample_session: SessionRecord):
    row = to_row(sample_session) | {"spec": {"config": {"$complex": [1, 2]}}}

    with pytest.raises(StorageError, match=r"'s1'.*complex"):
        from_row(type(sample_session), row)


def test_a_row_holds_plain_values(sample_session: SessionRecord):
    row = to_row(replace(sample_session, state=SessionState.FAILED))

    assert (row["state"], type(row["state"]), type(row["spec"])) == ("failed", str, dict)


def test_every_table_has_the_fields_of_its_record_and_its_project():
    for kind, table in TABLES.items():
        assert set(field_types(kind)) | {"seq"} == set(table.c.keys()) | {"seq"}
        assert "project" in table.c or table.name == "projects"
