"""A session's evidence as one file, for who has no access to the server: a zip archive, signed by the server.

bundle.json        every row of the session: {"format", "hansa", "exported_at", "session", "rounds", …}
signature.json     {"signer", "value"}: the server's, over bundle.json
objects/DIGEST     bytes of models, states and aggregates, as they are, for those that are kept and were asked for
"""

import asyncio
import json
import re
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, Final, get_args

from blake3 import blake3

from hansa.errors import CorruptionError, InputError
from hansa.evidence.documents import from_json, to_json
from hansa.evidence.findings import Known, Verification
from hansa.evidence.recomputation import recompute, resolved, steps
from hansa.evidence.record import Evidence
from hansa.evidence.verification import verify_record
from hansa.messages import Signature
from hansa.statements import bundle_statement
from hansa.store.records import SessionRecord
from hansa.wire import codec
from hansa.wire.node_key import holds

__all__ = ["Bundle", "open_bundle", "verify_bundle", "write_bundle"]

_FORMAT: Final = "hansa bundle 1"
_MANIFEST, _SIGNATURE, _OBJECTS = "bundle.json", "signature.json", "objects/"
_OBJECT: Final = re.compile(_OBJECTS + r"[0-9a-f]{64}")
_NEWER: Final = frozenset({"handovers"})
"""Kinds of rows of which bundles of an older hansa have none."""
_MOST_JSON: Final = 1 << 30
"""Bytes of bundle.json: a million rows and more."""
_MOST_SIGNATURE: Final = 4096
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle. `evidence` is what it says, and nothing of it is verified yet."""

    evidence: Evidence
    statement: bytes
    """What the server must have signed."""
    signature: Signature
    digests: frozenset[str]
    """The objects that are in it."""
    read: Callable[[str], Iterator[bytes]]
    """Digest → the bytes, in chunks; raises `CorruptionError` where they cannot be read."""


@asynccontextmanager
async def _writing(file: Path) -> AsyncIterator[zipfile.ZipFile]:
    archive = await asyncio.to_thread(zipfile.ZipFile, file, "w", zipfile.ZIP_DEFLATED)
    try:
        yield archive
    finally:
        await asyncio.to_thread(archive.close)


async def write_bundle(
    file: Path,
    evidence: Evidence,
    objects: Mapping[str, Path],
    sign: Callable[[bytes], Signature],
    *,
    version: str,
    at: float,
) -> None:
    """Write a bundle. objects: digest → file; version: of hansa; at: POSIX seconds."""
    document = {
        "format": _FORMAT,
        "hansa": version,
        "exported_at": at,
        "session": to_json(evidence.session),
        **{name: [to_json(row) for row in getattr(evidence, name)] for name in _kinds()},
    }
    manifest = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode()
    signature = sign(bundle_statement(blake3(manifest).hexdigest()))
    async with _writing(file) as archive:
        await asyncio.to_thread(archive.writestr, _MANIFEST, manifest)
        signed = json.dumps({"signer": signature.signer, "value": signature.value}, indent=1)
        await asyncio.to_thread(archive.writestr, _SIGNATURE, signed)
        for digest, path in objects.items():
            await asyncio.to_thread(archive.write, path, _OBJECTS + digest, zipfile.ZIP_STORED)


def open_bundle(file: IO[bytes]) -> Bundle:
    """Read what a bundle says. Raises `CorruptionError`, or `InputError` for what is no bundle."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"this is no bundle of hansa's, or it was cut off: {error}") from error
    names = archive.namelist()
    odd = [name for name in names if name not in {_MANIFEST, _SIGNATURE} and not _OBJECT.fullmatch(name)]
    if odd or len(set(names)) != len(names) or not {_MANIFEST, _SIGNATURE} <= set(names):
        raise InputError(f"this is no bundle of hansa's: it should hold {_MANIFEST}, {_SIGNATURE} and objects alone")
    packed = [each.filename for each in archive.infolist() if each.compress_type != zipfile.ZIP_STORED]
    if any(name.startswith(_OBJECTS) for name in packed):  # of which a few bytes could become any number in memory
        raise InputError("this is no bundle as hansa writes it: its objects are compressed")
    manifest = _read(archive, _MANIFEST, _MOST_JSON)
    document = _json(manifest, _MANIFEST)
    if document.get("format") != _FORMAT:
        raise InputError(
            f"this bundle has the format {str(document.get('format'))[:40]!r}; this hansa reads {_FORMAT!r}"
        )
    signed = _json(_read(archive, _SIGNATURE, _MOST_SIGNATURE), _SIGNATURE)
    signature = Signature(str(signed.get("signer", "")), str(signed.get("value", "")))

    def read(digest: str) -> Iterator[bytes]:
        try:
            with archive.open(_OBJECTS + digest) as stored:
                while chunk := stored.read(_CHUNK):
                    yield chunk
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise CorruptionError(f"the object {digest} of the bundle cannot be read: {error}") from error

    rows: dict[str, Any] = {name: _rows(kind, document, name) for name, kind in _kinds().items()}
    return Bundle(
        Evidence(session=from_json(SessionRecord, document.get("session")), **rows),
        bundle_statement(blake3(manifest).hexdigest()),
        signature,
        frozenset(name.removeprefix(_OBJECTS) for name in names if name.startswith(_OBJECTS)),
        read,
    )


def verify_bundle(bundle: Bundle, known: Known | None = None) -> Verification:
    """Check a bundle, offline. Raises `CorruptionError` that names the first thing that is not as it was written.

    Objects that are not in it, by the choice of who exported it, are not read.
    """
    known = known if known is not None else Known()
    evidence = bundle.evidence
    found = verify_record(evidence, known)
    if not holds(bundle.signature, bundle.statement):
        raise CorruptionError("the server's signature of this bundle does not hold: it was changed after its export")
    if known.server and bundle.signature.signer not in known.server:
        raise CorruptionError(
            f"{bundle.signature.signer[:80]} has exported this bundle, which is none of the keys that you gave"
        )
    strangers = sorted(bundle.digests - evidence.objects.keys())
    if strangers:
        raise CorruptionError(f"the bundle holds an object that no row names: {strangers[0]}")
    sizes: dict[str, int] = {}
    for digest in sorted(bundle.digests):
        content, sizes[digest] = blake3(), 0
        for chunk in bundle.read(digest):
            content.update(chunk)
            sizes[digest] += len(chunk)
        if content.hexdigest() != digest:
            raise CorruptionError(f"{evidence.objects[digest]} is damaged: its bytes are not those of {digest}")
    able = steps(evidence, sizes)
    run, obstacle = resolved(evidence.session) if able else (None, "")
    if run is None:
        return found.with_objects(sizes, 0, obstacle)
    for step in able:
        recompute(run, step, lambda digest: codec.decode(b"".join(bundle.read(digest))))
    return found.with_objects(sizes, len(able), obstacle)


def _kinds() -> dict[str, type[Any]]:
    """Name in the document → the class of its rows."""
    return {field.name: get_args(field.type)[0] for field in fields(Evidence) if field.name != "session"}


def _rows(kind: type[Any], document: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    listed = document.get(name, [] if name in _NEWER else None)
    if not isinstance(listed, list):
        raise CorruptionError(f"the bundle's {_MANIFEST} lacks the list of {name}")
    return tuple(from_json(kind, row) for row in listed)


def _read(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    try:
        with archive.open(name) as stored:
            content = stored.read(most + 1)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise CorruptionError(f"{name} of the bundle cannot be read: {error}") from error
    if len(content) > most:
        raise InputError(f"{name} of the bundle has more than {most:,} bytes")
    return content


def _json(content: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"{name} of the bundle is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CorruptionError(f"{name} of the bundle is no JSON object")
    return document
