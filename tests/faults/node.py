"""A node's process in the laboratory: `node.py NAME FOLDER ARGUMENTS…` is hansa's command, instrumented.

HANSA_LAB_PLANT names a bug that is planted in it (`plants.py`).
"""

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import plants
from faults.points import AGENT, CLIENT, OUTBOX, Process, located
from hansa.cli import main as hansa


def main() -> None:
    """Become the node."""
    name, folder, *arguments = sys.argv[1:]
    kind = name.partition("-")[0]
    process = Process(name, kind, Path(folder))
    process.note("started", pid=os.getpid())
    if kind == CLIENT:
        record(process)
    planted = os.environ.get(plants.PLANT, "")  # noqa: TID251 - the laboratory's own
    if planted:
        plants.PLANTS[planted].plant(kind)
    process.instrument()
    sys.argv = ["hansa", *arguments]
    hansa()


def record(process: Process) -> None:
    """What a client has learned, offered and heard goes into the history."""
    outbox, keep = located(f"{OUTBOX}.keep")
    agent, judged = located(f"{AGENT}._judged")
    _, close = located(f"{AGENT}._close")
    kept, heard, closed = getattr(outbox, keep), getattr(agent, judged), getattr(agent, close)

    async def recorded_keep(self: Any, offer: Any) -> None:
        await kept(self, offer)
        process.note("kept", **_key(offer.key), digest=offer.blob.digest, size=offer.blob.size)

    def recorded_judged(self: Any, verdict: Any) -> None:
        offer = self._outbox.get(verdict.key)
        reason = verdict.reason.value if verdict.reason is not None else ""
        digest = offer.blob.digest if offer is not None else ""
        process.note("verdict", **_key(verdict.key), accepted=verdict.accepted, reason=reason, digest=digest)
        heard(self, verdict)

    def recorded_close(self: Any, frame: Any) -> None:
        process.note("closed", **_key(frame.key), counted=process.name in frame.committed, cause=frame.cause)
        closed(self, frame)

    setattr(outbox, keep, recorded_keep)
    setattr(agent, judged, recorded_judged)
    setattr(agent, close, recorded_close)


def _key(key: Any) -> dict[str, Any]:
    return {"run": key.run, "round": key.round, "kind": key.kind.value}


if __name__ == "__main__":
    main()
