"""A session's evidence as a bundle, for who has no access to the server."""

import time
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path

import hansa
from hansa.errors import CorruptionError, NotFoundError
from hansa.evidence.bundle import write_bundle
from hansa.evidence.record import gather
from hansa.network.controller.commit import Sign
from hansa.network.controller.holds import Holds
from hansa.store.ports import MetadataStore, ObjectStore

__all__ = ["Models", "export"]


class Models(StrEnum):
    """Which objects go into a bundle, of those that are kept; `newest`: the last model and state."""

    ALL = "all"
    NEWEST = "newest"
    NONE = "none"


async def export(
    store: MetadataStore,
    objects: ObjectStore,
    holds: Holds,
    sign: Sign,
    *,
    project: str,
    session: str,
    models: Models,
    file: Path,
) -> None:
    """Write a session's bundle to a file. Raises `NotFoundError`, and `CorruptionError` for an object that is lost."""
    async with AsyncExitStack() as held:
        evidence = await gather(store, project, session)
        for digest in evidence.kept:
            await held.enter_async_context(holds.holding(digest))
        evidence = (await gather(store, project, session)).until(evidence.session.round)  # what was pruned meanwhile
        wanted = evidence.kept if models is Models.ALL else frozenset[str]()
        if models is Models.NEWEST and evidence.rounds:
            wanted = frozenset({evidence.rounds[-1].model, evidence.rounds[-1].state} - {""})
        paths: dict[str, Path] = {}
        for digest in sorted(wanted):
            try:
                paths[digest] = await objects.fetch(digest)
            except NotFoundError as error:
                raise CorruptionError(
                    f"{evidence.objects[digest]} of session {evidence.session.name} is lost: export it with "
                    "--models none, and restore a backup"
                ) from error
        await write_bundle(file, evidence, paths, sign, version=hansa.__version__, at=time.time())
