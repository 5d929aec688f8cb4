"""The chain of hashes over the audit record: each line names the one before it, so none can be changed, lost or moved.

Each project has a chain of its own, and so has the installation. `link = blake3(encoding)`, in hexadecimal digits,
where the encoding is the concatenation of

    text("hansa audit link 1")
    text(link of the line before, "" for the first)
    text(project)  number(number)  text(repr of `at`)
    text(actor)  text(action)  text(target)  text(outcome)  text(detail)

with text and number as in `hansa.statements`.

What a chain cannot show is that its newest lines are gone: for that, keep the last link elsewhere.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from blake3 import blake3

from hansa.errors import CorruptionError
from hansa.statements import number, text
from hansa.store.records import AuditRecord

__all__ = ["audit_link", "chained", "verify_audit"]

_DOMAIN: Final = "hansa audit link 1"


def audit_link(previous: str, line: AuditRecord) -> str:
    """The link of a line, 64 hexadecimal digits; the line's own `link` is not looked at."""
    texts = (line.actor, line.action, line.target, line.outcome, line.detail)
    head = text(_DOMAIN) + text(previous) + text(line.project) + number(line.number)
    return blake3(head + text(repr(line.at)) + b"".join(map(text, texts))).hexdigest()


def chained(previous: AuditRecord | None, line: AuditRecord) -> AuditRecord:
    """A new line as it follows the newest one of its project."""
    following = previous.number + 1 if previous is not None else 1
    line = replace(line, id=str(following), number=following)
    return replace(line, link=audit_link(previous.link if previous is not None else "", line))


def verify_audit(lines: Iterable[AuditRecord], head: str | None = None) -> tuple[int, str]:
    """(how many lines there are, the link of the last); the lines of one project, from its first on.

    head: a link that must be among them. Raise `CorruptionError` that names the first line that was changed, lost or
    moved.
    """
    last, link, found = 0, "", head in {None, ""}
    for line in lines:
        if line.number != last + 1:
            raise CorruptionError(f"after line {last} of the audit record comes {line.number}: lines are lost or moved")
        expected = audit_link(link, line)
        if line.link != expected or line.id != str(line.number):
            raise CorruptionError(f"line {line.number} of the audit record was changed, or one before it was")
        last, link = line.number, expected
        found = found or link == head
    if not found:
        raise CorruptionError(f"the audit record does not contain the link {head}: its newest lines are lost")
    return last, link
