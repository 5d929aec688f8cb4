"""The record of a session where it is kept: every row, and every byte that the rows name."""

import asyncio

from hansa.errors import CorruptionError, NotFoundError
from hansa.evidence.findings import Known, Verification
from hansa.evidence.recomputation import Step, recompute, resolved, steps
from hansa.evidence.record import Evidence, gather
from hansa.evidence.verification import verify_record
from hansa.run import Run
from hansa.store.ports import MetadataStore, ObjectStore
from hansa.wire import codec

__all__ = ["verify_session"]


async def verify_session(
    store: MetadataStore, objects: ObjectStore, project: str, session: str, head: str | None = None
) -> Verification:
    """Read all that a session has left, and compute its models anew. head: a link that its chain must contain.

    Raises `CorruptionError`, naming the first thing that is lost or changed, and `NotFoundError` for no such session.
    """
    evidence = await gather(store, project, session)
    found = await asyncio.to_thread(verify_record, evidence, Known(head))
    sizes: dict[str, int] = {}
    for digest, what in evidence.objects.items():
        if digest in evidence.kept:
            try:
                sizes[digest] = await _read(objects, digest, f"{what} of session {evidence.session.name}")
            except CorruptionError:
                if digest in await _still_kept(store, evidence):
                    raise  # else it was pruned while the others were read
    able = await asyncio.to_thread(steps, evidence, sizes)
    run, obstacle = await asyncio.to_thread(resolved, evidence.session) if able else (None, "")
    if run is None:
        return found.with_objects(sizes, 0, obstacle)
    recomputed = 0
    for step in able:
        try:
            await _recompute(objects, run, step, evidence.session.name)
        except CorruptionError:
            if step.digests <= await _still_kept(store, evidence):
                raise
        else:
            recomputed += 1
    return found.with_objects(sizes, recomputed, obstacle)


async def _recompute(objects: ObjectStore, run: Run, step: Step, session: str) -> None:
    try:
        paths = {digest: await objects.fetch(digest) for digest in step.digests}
    except NotFoundError as error:
        where = f"what round {step.row.number} of session {session} was made from"
        raise CorruptionError(f"{where} is lost: {error}") from error
    await asyncio.to_thread(recompute, run, step, lambda digest: codec.load(paths[digest]))


async def _still_kept(store: MetadataStore, evidence: Evidence) -> frozenset[str]:
    again = await gather(store, evidence.session.project, evidence.session.id)
    return again.until(evidence.session.round).kept


async def _read(objects: ObjectStore, digest: str, what: str) -> int:
    """Bytes of an object; reading compares them with the digest."""
    size = 0
    try:
        async for chunk in objects.read(digest):
            size += len(chunk)
    except NotFoundError as error:
        raise CorruptionError(f"{what} is lost: there is no object {digest}") from error
    except CorruptionError as error:
        raise CorruptionError(f"{what} is damaged: {error}") from error
    return size
