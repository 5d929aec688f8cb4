"""Files as a zip archive in one strict form, and back; the same files give the same bytes.

An archive of another form is refused whole, before a byte of it is written: names that leave their folder, that some
system cannot write, or that some system takes for each other; links, devices, rights beyond reading and executing;
more files or bytes than announced or allowed.
"""

import io
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hansa.errors import AppError

__all__ = ["MAX_ARCHIVE", "MAX_BYTES", "MAX_FILES", "File", "read", "write"]

MAX_BYTES: Final = 64 << 20
"""Bytes of all files of a package together."""
MAX_FILES: Final = 10_000
_MAX_DIRECTORY: Final = 8 << 20
"""Bytes of what an archive says of its files; it is read whole, and takes some ten times as much memory."""
MAX_ARCHIVE: Final = MAX_BYTES + _MAX_DIRECTORY
"""Bytes of an archive: its files as they are, and what it says of each."""
_MAX_DEPTH, _LONGEST_NAME = 32, 200
"""Folders in each other, and bytes of one name; with more, some system cannot write the file."""
_ENCRYPTED: Final = 0x1
_END, _ENDS = 22, 42
"""Bytes of the end of an archive's directory, and with what stands before it in the 64-bit kind."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
)
"""Names that are devices in every folder of Windows, whatever follows their first dot."""


@dataclass(frozen=True, slots=True)
class File:
    """What an archive holds under one name."""

    content: bytes
    executable: bool = False


def write(files: Mapping[str, File]) -> bytes:
    """These files as an archive, in this order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | (0o755 if file.executable else 0o644)) << 16
            archive.writestr(entry, file.content)
    return buffer.getvalue()


def read(archive: bytes | memoryview) -> dict[str, File]:
    """The files of an archive, by name. Raises `AppError` for what is none, or is hostile."""
    if len(archive) > MAX_ARCHIVE:
        raise AppError(f"the package has {len(archive):,} bytes, more than {MAX_ARCHIVE:,}; it was not unpacked")
    _check_end(bytes(archive[-_ENDS:]))
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = opened.infolist()
            _check(entries)
            return {
                entry.filename: File(_content(opened, entry), bool((entry.external_attr >> 16) & stat.S_IXUSR))
                for entry in entries
            }
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise AppError(f"the package is not an archive that can be read: {error}") from error


def _check_end(end: bytes) -> None:
    """The last bytes of an archive say how large its directory is; refuse what zipfile would read in another way."""
    plain = end[-_END:].startswith(b"PK\x05\x06") and not end.startswith(b"PK\x06\x07")
    if not plain:
        raise AppError(
            "the package is not an archive that can be read: it is no zip file, or it is cut off, has a comment or is "
            "of the 64-bit kind; `hansa package create` packs a folder"
        )
    if int.from_bytes(end[-10:-6], "little") > _MAX_DIRECTORY:
        raise AppError(f"the package is larger than {MAX_FILES:,} files; it was not unpacked")


def _check(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_FILES or sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise AppError(f"the package is larger than {MAX_FILES:,} files or {MAX_BYTES:,} bytes; it was not unpacked")
    files: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        flaw = _flaw(entry)
        if flaw:
            raise AppError(f"the package holds {entry.orig_filename[:200]!r}, {flaw}; it was not unpacked")
        folded = [_folded(part) for part in entry.filename.split("/")]
        name, above = "/".join(folded), {"/".join(folded[:depth]) for depth in range(1, len(folded))}
        if name in files or name in folders or above & files:
            raise AppError(f"the package names {entry.filename!r} twice; it was not unpacked")
        files.add(name)
        folders |= above


def _folded(part: str) -> str:
    """One text for all that some file system takes for the same name."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", part).casefold())


def _flaw(entry: zipfile.ZipInfo) -> str:
    """Why this entry is not written; empty when it is a plain file inside the folder, wherever that is unpacked."""
    return (
        "with a sign in its name that not every system can write"
        if entry.orig_filename != entry.filename
        else _flaw_of_name(entry.filename) or _flaw_of_kind(entry)
    )


def _flaw_of_kind(entry: zipfile.ZipInfo) -> str:
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        return "which is no ordinary file"
    if mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        return "which would run with another's rights"
    if entry.extra or entry.comment:  # where links, owners and second names are kept
        return "with more than a name and its bytes"
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} or entry.flag_bits & _ENCRYPTED:
        return "which is compressed in an unusual way, or encrypted"
    return ""


def _flaw_of_name(name: str) -> str:
    parts = name.split("/")
    if not name.isprintable() or any(sign in name for sign in '\\:*?"<>|'):
        return "with a sign in its name that not every system can write"
    if len(parts) > _MAX_DEPTH or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        return "whose name is too long"  # before it is folded, which takes the square of its length
    if any(
        _folded(part) in {"", ".", ".."} or part != part.rstrip(" .") for part in parts
    ):  # ․․ (U+2024) may be two dots
        return "which names no file inside its folder"
    if any(part.partition(".")[0].rstrip(" ").lower() in _DEVICES for part in parts):
        return "which is a device on Windows"
    return ""


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The file's bytes, and no more of them than were announced."""
    with archive.open(entry) as file:
        content = file.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise AppError(f"{entry.filename!r} in the package is not as large as announced; it was not unpacked")
    return content
