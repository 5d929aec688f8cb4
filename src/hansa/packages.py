"""User code as an archive, packed by the operator and unpacked on a client; the same files give the same bytes."""

import io
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hansa.app import find_app
from hansa.errors import AppError

__all__ = ["pack", "unpack"]

MAX_BYTES = 64 << 20
"""Bytes of all files of a package together."""
MAX_FILES = 10_000
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
    """Write a package's files into a new folder and return the app's path in it.

    Everything is checked before anything is written. Raises `AppError` for what is no package, or a hostile one.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = opened.infolist()
            _check(entries)
            contents = [(entry, _read(opened, entry)) for entry in entries]
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, ValueError) as error:
        raise AppError(f"the package is not an archive that can be read: {error}") from error
    for entry, content in contents:
        target = folder / entry.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o755 if (entry.external_attr >> 16) & stat.S_IXUSR else 0o644)
    names = [PurePosixPath(entry.filename) for entry in entries]
    tops = [name for name in names if len(name.parts) == 1 and name.suffix in {".py", ".toml"}]
    return find_app(folder / tops[0]) if len(names) == 1 and tops else find_app(folder)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        hidden = any(part.startswith(".") or part in _LEFT_OUT for part in relative.parts)
        if not hidden and file.is_file() and not file.is_symlink():
            yield relative.as_posix(), file


def _check(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_FILES or sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise AppError(f"the package is larger than {MAX_FILES:,} files or {MAX_BYTES:,} bytes; it was not unpacked")
    seen: set[str] = set()
    for entry in entries:
        name = PurePosixPath(entry.filename)
        mode = entry.external_attr >> 16
        odd = "\\" in entry.filename or "\x00" in entry.filename or ":" in name.parts[0] if name.parts else True
        if odd or name.is_absolute() or ".." in name.parts or entry.filename != str(name):
            raise AppError(f"the package names the file {entry.filename!r}, outside its folder; it was not unpacked")
        if mode and not stat.S_ISREG(mode):
            raise AppError(f"the package holds {entry.filename!r}, which is no ordinary file; it was not unpacked")
        if str(name).casefold() in seen:
            raise AppError(f"the package names {entry.filename!r} twice; it was not unpacked")
        seen.add(str(name).casefold())


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The file's bytes, and no more of them than were announced."""
    with archive.open(entry) as file:
        content = file.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise AppError(f"{entry.filename!r} in the package is not as large as announced; it was not unpacked")
    return content
