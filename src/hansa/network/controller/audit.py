"""Lines of the audit record, as they are made: who did what, to what, and how it ended."""

import time
from typing import Final

from hansa.store.records import AuditRecord

__all__ = ["SERVER", "audit_line"]

SERVER: Final = "hansa"
"""The actor where the server does something by itself, or whoever started it."""


def audit_line(
    project: str, actor: str, action: str, target: str, *, outcome: str = "done", detail: str = ""
) -> AuditRecord:
    """A line that is not stored yet: put it in the transaction of what it tells of. Never a secret in any part of it.

    project: `INSTALLATION` where it concerns none; outcome: done, failed or refused.
    """
    return AuditRecord("", project, 0, time.time(), actor, action, target, outcome, detail)
