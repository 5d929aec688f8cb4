"""What is signed, byte for byte: clients in other languages make the same statements."""

import math
import struct

from hypothesis import given
from hypothesis import strategies as st

from hansa.messages import Signature
from hansa.statements import Part, end_statement, number, real, reals, report_statement, text, update_statement
from hansa.wire.node_key import NodeKey, holds

PART = Part("default", "run-7", 3, "ö", "b" * 64)
ENCODED_PART = (
    b"\x07\0\0\0\0\0\0\0default"
    b"\x05\0\0\0\0\0\0\0run-7"
    b"\x03\0\0\0\0\0\0\0"
    b"\x02\0\0\0\0\0\0\0\xc3\xb6"
    b"\x40\0\0\0\0\0\0\0" + b"b" * 64
)


def test_an_update_is_signed_as_the_documentation_says():
    said = update_statement(PART, "a" * 64, 120, {"loss": 0.5, "acc": -0.0})
    assert said == (
        b"\x0e\0\0\0\0\0\0\0hansa update 1"
        + ENCODED_PART
        + b"\x40\0\0\0\0\0\0\0" + b"a" * 64
        + b"\x78\0\0\0\0\0\0\0"
        + b"\x02\0\0\0\0\0\0\0"
        + b"\x03\0\0\0\0\0\0\0acc" + struct.pack("<d", -0.0)
        + b"\x04\0\0\0\0\0\0\0loss" + struct.pack("<d", 0.5)
    )  # fmt: skip


def test_a_report_is_signed_as_the_documentation_says():
    said = report_statement(PART, -1, {})
    assert said == b"\x0e\0\0\0\0\0\0\0hansa report 1" + ENCODED_PART + b"\xff" * 8 + bytes(8)


def test_every_nan_is_the_same_number_and_no_other():
    other = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000123))[0]
    assert math.isnan(other)
    assert real(other) == real(math.nan) == bytes.fromhex("000000000000f87f")
    assert len({real(x) for x in (0.0, -0.0, math.inf, -math.inf, math.nan)}) == 5


texts = st.text(max_size=5)
parts = st.builds(Part, texts, texts, st.integers(0, 3), texts, texts)
metrics = st.dictionaries(texts, st.floats(allow_nan=False), max_size=3)


updates = st.tuples(parts, texts, st.integers(0, 3), metrics)


@given(updates, updates)
def test_different_things_are_said_in_different_bytes(
    one: tuple[Part, str, int, dict[str, float]], two: tuple[Part, str, int, dict[str, float]]
):
    same_metrics = {k: real(v) for k, v in one[3].items()} == {k: real(v) for k, v in two[3].items()}
    assert (update_statement(*one) == update_statement(*two)) == (one[:3] == two[:3] and same_metrics)
    assert update_statement(*one) != report_statement(one[0], one[2], one[3])


@given(st.integers(-(2**63), 2**64 - 1))
def test_a_number_takes_eight_bytes(value: int):
    assert number(value) == (value % 2**64).to_bytes(8, "little")


def test_names_are_in_the_order_of_their_bytes():
    assert reals({"z": 1.0, "ö": 2.0}) == number(2) + text("z") + real(1.0) + text("ö") + real(2.0)


def test_a_signature_holds_for_its_statement_and_its_signer_alone():
    key, other = NodeKey.new(), NodeKey.new()
    said = end_statement("default", "run", state="finished", cause="done", head="h", journal="j")
    signature = key.sign(said)
    assert holds(signature, said)
    assert not holds(signature, said + b"\0")
    assert not holds(Signature(other.public, signature.value), said)
    for odd in ("", "ed25519:" + "zz" * 32, signature.signer.upper(), signature.signer + "00"):
        assert not holds(Signature(odd, signature.value), said)
    for odd in ("", "00" * 64, signature.value[:-2], signature.value.upper() + "\n"):
        assert not holds(Signature(signature.signer, odd), said)
