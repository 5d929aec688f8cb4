"""What is signed and what is hashed: values as bytes, so that no two different statements have the same.

A statement is the concatenation of its parts, the first of which names its kind and version:

    text(s)     = number(length of s in UTF-8, in bytes), then these bytes
    number(n)   = 8 bytes, little-endian; a negative number as its two's complement
    real(x)     = 8 bytes, IEEE 754 binary64, little-endian; every NaN as 0x7ff8000000000000
    reals(m)    = number(how many), then text(name) real(value) for each, by the bytes of its name

    part        = text(project) text(run) number(round) text(client) text(digest of the model that it was given)
    update      = text("hansa update 1") part text(digest of the update) number(num_examples) reals(metrics)
    report      = text("hansa report 1") part number(num_examples) reals(metrics)
    round       = text("hansa round 1") text(link of the round)
    end         = text("hansa end 1") text(project) text(run) text(state) text(cause) text(link of the last round)
                  text(link of the session's event before)
    bundle      = text("hansa bundle 1") text(blake3 of bundle.json)
    handover    = text("hansa handover 1") text(project) text(node) text(public key so far) text(the new one)

A client signs updates and reports with its own key, and a handover with both keys; the server signs rounds, ends and
bundles with the key of its tokens. Models and updates are named by their blake3. A program in any language can make
these statements, and check them.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = [
    "Part",
    "bundle_statement",
    "end_statement",
    "handover_statement",
    "number",
    "real",
    "reals",
    "report_statement",
    "round_statement",
    "text",
    "update_statement",
]

_NAN: Final = struct.pack("<Q", 0x7FF8000000000000)


def text(value: str) -> bytes:
    """A length, and UTF-8."""
    encoded = value.encode()
    return number(len(encoded)) + encoded


def number(value: int) -> bytes:
    """8 bytes; −2^63 ≤ value < 2^64."""
    return value.to_bytes(8, "little", signed=value < 0)


def real(value: float) -> bytes:
    """8 bytes."""
    return _NAN if math.isnan(value) else struct.pack("<d", value)


def reals(values: Mapping[str, float]) -> bytes:
    """Numbers by name, in one order."""
    named = sorted((name.encode(), value) for name, value in values.items())
    return number(len(named)) + b"".join(number(len(name)) + name + real(value) for name, value in named)


@dataclass(frozen=True, slots=True)
class Part:
    """One client's part in one phase of one round."""

    project: str
    run: str
    round: int
    client: str
    base: str
    """Digest of the model that it was given."""

    @property
    def encoded(self) -> bytes:
        """As the beginning of what the client signs."""
        return text(self.project) + text(self.run) + number(self.round) + text(self.client) + text(self.base)


def update_statement(part: Part, digest: str, num_examples: int, metrics: Mapping[str, float]) -> bytes:
    """What a client signs of an update. digest: of its bytes."""
    return text("hansa update 1") + part.encoded + text(digest) + number(num_examples) + reals(metrics)


def report_statement(part: Part, num_examples: int, metrics: Mapping[str, float]) -> bytes:
    """What a client signs of an evaluation."""
    return text("hansa report 1") + part.encoded + number(num_examples) + reals(metrics)


def round_statement(link: str) -> bytes:
    """What the server signs of a committed round: its link covers all of it, and every round before."""
    return text("hansa round 1") + text(link)


def end_statement(project: str, run: str, *, state: str, cause: str, head: str, journal: str) -> bytes:
    """What the server signs when a session ends. head: link of its last round; journal: of its last event before."""
    return text("hansa end 1") + b"".join(map(text, (project, run, state, cause, head, journal)))


def bundle_statement(digest: str) -> bytes:
    """What the server signs of a bundle that it exports."""
    return text("hansa bundle 1") + text(digest)


def handover_statement(project: str, node: str, former: str, key: str) -> bytes:
    """What a node signs with both, when another public key takes the place of the one that it is known by."""
    return text("hansa handover 1") + b"".join(map(text, (project, node, former, key)))
