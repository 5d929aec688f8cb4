"""What people upload: models that sessions start from, and packages of user code."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from blake3 import blake3

from hansa.errors import ConflictError, NotFoundError, PrunedError
from hansa.network.controller.audit import SERVER, audit_line
from hansa.network.controller.names import checked_name
from hansa.network.controller.quotas import Quotas
from hansa.network.controller.retention import Retention
from hansa.packages.package import read as read_package
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import AuditRecord, ModelRecord, PackageRecord
from hansa.wire import codec

__all__ = ["Artifacts"]

_SHOWN = 5
"""Rounds that an error names."""


class Artifacts:
    """Models and packages of every project, each an object and a row that names it."""

    def __init__(self, store: MetadataStore, retention: Retention, quotas: Quotas) -> None:
        self._store = store
        self._retention = retention
        self._quotas = quotas

    # ── models ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def add_model(
        self,
        project: str,
        file: bytes | memoryview,
        name: str = "",
        by: str = SERVER,
        *,
        parent: str | None = None,
    ) -> ModelRecord:
        """A seed model, as a safetensors file; raises `WireError` when it is none.

        parent: digest of the model that it was made from elsewhere; raises `NotFoundError` unless it is here.
        """
        if parent is not None:
            await self.find_model(project, parent)
        arrays = await asyncio.to_thread(codec.decode, file)
        digest, size = await asyncio.to_thread(codec.digest, arrays), codec.size(arrays)
        record = ModelRecord(digest, project, "", 0, parent, size, time.time(), name)
        told = audit_line(project, by, "model.upload", digest, detail=name)
        await self._keep(project, codec.encode(arrays), record, told)
        return record

    async def find_model(self, project: str, digest: str) -> ModelRecord:
        """A model's record, one that holds on to its bytes if there is one; raises `NotFoundError`."""
        for where in ({"id": digest, "pruned_at": None}, {"id": digest}):
            found = (await self._store.list(ModelRecord, Query(project, where, limit=1))).items
            if found:
                return found[0]
        raise NotFoundError(f"there is no model {digest!r} in project {project!r}")

    async def model_with_bytes(self, project: str, digest: str) -> ModelRecord:
        """The same, and its bytes are there; raises `PrunedError` that says which models are."""
        record = await self.find_model(project, digest)
        if record.pruned_at is None:
            return record
        kept = Query(project, {"session": record.session, "pruned_at": None}, sort="-round", limit=_SHOWN)
        newest = await self._store.list(ModelRecord, kept)
        rounds = ", ".join(str(each.round) for each in newest.items)
        more = " …" if newest.total > _SHOWN else ""
        raise PrunedError(
            f"model {digest[:12]}… of round {record.round} of session {record.session} was pruned on "
            f"{time.strftime('%Y-%m-%d', time.gmtime(record.pruned_at))} by the policy `keep {record.pruned_by}`: its "
            f"record is kept, its bytes are not; kept are the models of rounds {rounds}{more} "
            f"(hansa model list --session {record.session})"
        )

    async def name_model(self, project: str, digest: str, name: str, by: str = SERVER) -> ModelRecord:
        """Call a model something; raises `NotFoundError`."""
        record = replace(await self.find_model(project, digest), name=name)
        await self._store.put(record, audit_line(project, by, "model.name", digest, detail=name))
        return record

    async def delete_model(self, project: str, digest: str, by: str = SERVER) -> None:
        """Delete an uploaded model; raises `ConflictError` when a session, a prediction or another model names it."""
        uploaded = await self._store.list(ModelRecord, Query(project, {"id": digest, "session": ""}, limit=1))
        if not uploaded.items:
            found = await self.find_model(project, digest)
            raise ConflictError(
                f"model {digest[:12]}… is that of round {found.round} of session {found.session}: change which models "
                "the session keeps (`hansa session keep`), or delete it"
            )
        await self._delete_upload(ModelRecord, project, digest, audit_line(project, by, "model.delete", digest))

    # ── packages ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def add_package(self, project: str, archive: bytes, by: str = SERVER) -> PackageRecord:
        """User code for sessions; raises `AppError` when it is no safe package, or its signature does not hold."""
        package = await asyncio.to_thread(read_package, archive)
        await asyncio.to_thread(package.signer)
        name, digest = checked_name(package.manifest.name, "package"), blake3(archive).hexdigest()
        record = PackageRecord(digest, project, name, len(archive), time.time())
        told = audit_line(project, by, "package.upload", digest, detail=name)
        await self._keep(project, [archive], record, told)
        return record

    async def add_archive(self, project: str, archive: bytes, name: str, by: str = SERVER) -> PackageRecord:
        """Code for another system's clients, which fetch it as it is: nothing here opens or runs it."""
        digest = blake3(archive).hexdigest()
        record = PackageRecord(digest, project, checked_name(name, "package"), len(archive), time.time())
        await self._keep(project, [archive], record, audit_line(project, by, "package.upload", digest, detail=name))
        return record

    async def delete_package(self, project: str, package: str, by: str = SERVER) -> None:
        """Delete a package; raises `ConflictError` when a session or a prediction names it."""
        await self._delete_upload(PackageRecord, project, package, audit_line(project, by, "package.delete", package))

    # ── both ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def held(self, project: str, model: str | None, package: str | None) -> AsyncIterator[None]:
        """While a row is written that names them, they are there, and nobody deletes them; raises `NotFoundError`."""
        async with AsyncExitStack() as held:
            for digest in filter(None, (model, package)):
                await held.enter_async_context(self._retention.holds.holding(digest))
            if package is not None:
                await self._store.get(PackageRecord, project, package)
            if model is not None:
                await self._need_model(project, model)
            yield

    async def _keep(
        self,
        project: str,
        parts: Sequence[bytes | memoryview],
        record: ModelRecord | PackageRecord,
        told: AuditRecord,
    ) -> None:
        """Store an object and its row, where there is room; raises `QuotaExceededError`, and nothing is stored then."""
        async with self._quotas.storing(project, record.id, record.size, told.actor):
            digest = await self._retention.put(parts)
            try:
                await self._store.put(record, told)
            finally:
                self._retention.holds.release(digest)

    async def _delete_upload(
        self, kind: type[ModelRecord] | type[PackageRecord], project: str, digest: str, told: AuditRecord
    ) -> None:
        """The row, and the bytes as soon as nobody uses them."""
        with self._retention.holds.claim([digest]) as free:
            if not free:
                raise ConflictError(f"{digest[:12]}… is being used at this moment: delete it later")
            await self._store.delete_upload(kind, project, digest, told)
        await self._retention.finish_deletion(digest)

    async def _need_model(self, project: str, digest: str) -> None:
        try:
            await self.model_with_bytes(project, digest)
        except PrunedError:
            raise
        except NotFoundError as error:
            raise NotFoundError(f"project {project} has no model {digest[:12]}…; upload it first") from error
