"""What may be a message."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from hansa.arrays import Array, Arrays
from hansa.errors import InputError
from hansa.protocols.message import message, name_of, schema_named, schema_of


def test_a_frozen_dataclass_is_registered_by_its_name_and_by_its_type() -> None:
    @message("test.all-fields")
    @dataclass(frozen=True)
    class AllFields:
        flag: bool
        count: int
        rate: float
        text: str
        matrix: npt.NDArray[np.float32]
        other: Array
        model: Arrays

    schema = schema_of(AllFields)
    assert schema_named("test.all-fields") is schema
    assert list(schema.fields.values()) == [bool, int, float, str, np.ndarray, np.ndarray, Arrays]
    assert name_of(AllFields) == "test.all-fields"


def test_what_can_change_has_other_fields_or_no_proper_name_is_refused() -> None:
    @dataclass
    class Changing:
        count: int

    @dataclass(frozen=True)
    class Nested:
        items: list[int]

    with pytest.raises(InputError, match="Changing is no frozen dataclass"):
        message("test.changing")(Changing)
    with pytest.raises(InputError, match=r"Nested.items is a list"):
        message("test.nested")(Nested)
    with pytest.raises(InputError, match="'No Name'"):
        message("No Name")
    with pytest.raises(InputError, match=r"a message's name is <class .*Nested'>; .*: @message\("):
        message(Nested)  # type: ignore[arg-type]

    @dataclass(frozen=True)
    class Counted:
        count: int = field(default=1, init=False)

    with pytest.raises(InputError, match=r"Counted.count is not given to its constructor"):
        message("test.counted")(Counted)
    assert schema_named("test.nested") is None


def test_two_classes_have_no_name_in_common_but_a_class_may_be_made_anew() -> None:
    def make(count: int) -> type[object]:
        @message("test.twice")
        @dataclass(frozen=True)
        class Twice:
            number: int = count

        return Twice

    make(1)
    again = make(2)
    assert schema_of(again).kind is again

    @dataclass(frozen=True)
    class Other:
        number: int

    with pytest.raises(InputError, match=r"is the message 'test.twice' already"):
        message("test.twice")(Other)


def test_a_class_that_is_not_registered_is_no_message() -> None:
    with pytest.raises(InputError, match="int is no message"):
        schema_of(int)
