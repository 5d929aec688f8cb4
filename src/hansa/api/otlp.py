"""The audit record as OpenTelemetry logs: OTLP in JSON, one `LogsData` on each line, as a collector reads it.

OpenTelemetry Protocol, "JSON Protobuf Encoding": names in lowerCamelCase, 64-bit integers as decimal text, enumerations
as numbers. Reading it needs no library of ours; writing it needs none of theirs.
"""

from typing import Any, Final

import hansa
from hansa.store.records import INSTALLATION, AuditRecord

__all__ = ["logs_data"]

_SEVERITY: Final = {"done": (9, "INFO"), "failed": (13, "WARN"), "refused": (13, "WARN")}
"""Outcome → (SeverityNumber, its name)."""
_NANOSECONDS: Final = 10**9


def logs_data(line: AuditRecord) -> dict[str, Any]:
    """One line as a `LogsData` of one record; every field of the line is in it, under `hansa.audit`."""
    number, name = _SEVERITY.get(line.outcome, (9, "INFO"))
    at = str(round(line.at * _NANOSECONDS))
    resource = {"service.name": "hansa", "service.version": hansa.__version__}
    fields: dict[str, str | int] = {
        "hansa.project": line.project,
        "hansa.audit.number": line.number,
        "hansa.audit.target": line.target,
        "hansa.audit.outcome": line.outcome,
        "hansa.audit.detail": line.detail,
        "hansa.audit.link": line.link,
        "hansa.audit.at": repr(line.at),
        "user.name": line.actor,
    }
    record = {
        "timeUnixNano": at,
        "observedTimeUnixNano": at,
        "severityNumber": number,
        "severityText": name,
        "eventName": f"hansa.audit.{line.action}",
        "body": {"stringValue": _sentence(line)},
        "attributes": [_attribute(key, value) for key, value in fields.items()],
    }
    scope = {"scope": {"name": "hansa.audit"}, "logRecords": [record]}
    resource_attributes = [_attribute(key, value) for key, value in resource.items()]
    return {"resourceLogs": [{"resource": {"attributes": resource_attributes}, "scopeLogs": [scope]}]}


def _sentence(line: AuditRecord) -> str:
    place = f" in project {line.project}" if line.project != INSTALLATION else ""
    return f"{line.actor}: {line.action} {line.target}{place}: {line.outcome}" + (
        f" ({line.detail})" if line.detail else ""
    )


def _attribute(key: str, value: str | int) -> dict[str, Any]:
    return {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
