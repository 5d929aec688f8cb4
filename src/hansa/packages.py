"""User code as an archive, packed by the operator and unpacked on a client; the same files give the same bytes."""

import io
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hansa.app import find_app
from hansa.errors import AppError
from hansa.store.disk import explained

__all__ = ["MAX_ARCHIVE", "pack", "unpack"]

MAX_BYTES = 64 << 20
"""Bytes of all files of a package together."""
MAX_FILES = 10_000
_MAX_DIRECTORY = 8 << 20
"""Bytes of what an archive says of its files; it is read whole, and takes some ten times as much memory."""
MAX_ARCHIVE = MAX_BYTES + _MAX_DIRECTORY
"""Bytes of an archive: its files as they are, and what it says of each."""
_MAX_DEPTH, _LONGEST_NAME = 32, 200
"""Folders in each other, and bytes of one name; with more, some system cannot write the file."""
_ENCRYPTED = 0x1
_END, _ENDS = 22, 42
"""Bytes of the end of an archive's directory, and with what stands before it in the 64-bit kind."""
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "hansa-data"})
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(path: str | Path) -> bytes:
    """The app at this path as a zip archive: the one file when a file is named, else the folder's files.

    Hidden files, `__pycache__` and `hansa-data` are left out. Raises `AppError` when it is too large or has no app.
    """
    given = Path(path)
    find_app(given)
    files = list(_files(given)) if given.is_dir() else [(given.name, given)]
    total = sum(file.stat().st_size for _, file in files)
    if total > MAX_BYTES or len(files) > MAX_FILES:
        raise AppError(
            f"{given} has {len(files):,} files of {total:,} bytes; a package has at most {MAX_FILES:,} files and "
            f"{MAX_BYTES:,} bytes: give data by another way than the package"
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | (0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644)) << 16
            archive.writestr(entry, file.read_bytes())
    return buffer.getvalue()


def unpack(archive: bytes | memoryview, folder: Path) -> Path:
    """Write a package's files into a folder and return the app's path in it.

    Everything is checked before anything is written. Raises `AppError` for what is no package, or a hostile one, and
    `StorageError` when the folder cannot be written.
    """
    if len(archive) > MAX_ARCHIVE:
        raise AppError(f"the package has {len(archive):,} bytes, more than {MAX_ARCHIVE:,}; it was not unpacked")
    _check_end(bytes(archive[-_ENDS:]))
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = opened.infolist()
            _check(entries)
            contents = [(entry, _read(opened, entry)) for entry in entries]
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise AppError(f"the package is not an archive that can be read: {error}") from error
    app = _app_among([entry.filename for entry in entries])
    with explained("unpack the package to", folder):
        for entry, content in contents:
            target = folder / entry.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(0o755 if (entry.external_attr >> 16) & stat.S_IXUSR else 0o644)
    return (folder / app).resolve()


def _app_among(names: list[str]) -> str:
    """The entry that makes an app of these files, as `find_app` has it for a folder; or the only one."""
    for name in ("hansa.toml", "app.py"):
        if name in names:
            return name
    if len(names) == 1 and PurePosixPath(names[0]).suffix in {".py", ".toml"} and "/" not in names[0]:
        return names[0]
    raise AppError("the package has neither an app.py nor a hansa.toml; pack the folder that has one")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        hidden = any(part.startswith(".") or part in _LEFT_OUT for part in relative.parts)
        if not hidden and file.is_file() and not file.is_symlink():
            yield relative.as_posix(), file


def _check_end(end: bytes) -> None:
    """The last bytes of an archive say how large its directory is; refuse what zipfile would read in another way."""
    plain = end[-_END:].startswith(b"PK\x05\x06") and not end.startswith(b"PK\x06\x07")
    if not plain:
        raise AppError(
            "the package is not an archive that can be read: it is no zip file, or it is cut off, has a comment or is "
            "of the 64-bit kind; `hansa package push` packs a folder"
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
        folded = [unicodedata.normalize("NFC", part).casefold() for part in entry.filename.split("/")]
        name, above = "/".join(folded), {"/".join(folded[:depth]) for depth in range(1, len(folded))}
        if name in files or name in folders or above & files:
            raise AppError(f"the package names {entry.filename!r} twice; it was not unpacked")
        files.add(name)
        folders |= above


def _flaw(entry: zipfile.ZipInfo) -> str:
    """Why this entry is not written; empty when it is a plain file inside the folder, wherever that is unpacked."""
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    parts = name.split("/")
    if name != entry.filename or not name.isprintable() or any(sign in name for sign in '\\:*?"<>|'):
        return "with a sign in its name that not every system can write"
    if any(part in {"", ".", ".."} or part != part.rstrip(" .") for part in parts):
        return "which names no file inside its folder"
    if len(parts) > _MAX_DEPTH or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        return "whose name is too long"
    if kind not in {0, stat.S_IFREG}:
        return "which is no ordinary file"
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} or entry.flag_bits & _ENCRYPTED:
        return "which is compressed in an unusual way, or encrypted"
    return ""


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The file's bytes, and no more of them than were announced."""
    with archive.open(entry) as file:
        content = file.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise AppError(f"{entry.filename!r} in the package is not as large as announced; it was not unpacked")
    return content
