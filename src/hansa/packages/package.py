"""Packages: built by whoever writes an app, opened and unpacked by whoever is to run it."""

import os
import shlex
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from blake3 import blake3

from hansa.app import find_app, modules_beside
from hansa.errors import AppError
from hansa.packages import archive
from hansa.packages.archive import MAX_BYTES, MAX_FILES, File
from hansa.packages.ignored import ignored
from hansa.packages.manifest import MANIFEST, REQUIREMENTS, Manifest, Packed
from hansa.packages.requirements import check_lock
from hansa.packages.signature import SIGNATURE, Signature, sign
from hansa.store.disk import explained
from hansa.store.results import are_results
from hansa.training.command import read_toml

__all__ = ["SUFFIX", "Package", "build", "package_name", "read", "signed"]

SUFFIX: Final = ".hansa"
"""How the name of a package's file ends."""
_LEFT_OUT: Final = frozenset({"__pycache__", "node_modules", "hansa-data"})


@dataclass(frozen=True, slots=True)
class Package:
    """A package that has been opened: every file is the one that the manifest lists."""

    manifest: Manifest
    files: Mapping[str, File]
    requirements: tuple[str, ...]
    """Names and versions of its lock file; empty where it has none."""
    signature: Signature | None
    """None: nobody has signed it."""
    id: str
    """BLAKE3 of the archive, by which a server and its sessions name it; it changes when the package is signed."""

    @property
    def digest(self) -> str:
        """BLAKE3 of the manifest: what is signed, and what a data owner allows."""
        return self.manifest.digest

    def signer(self) -> str | None:
        """The public key of who signed it; None where nobody has.

        Raises `AppError` for a signature that does not hold.
        """
        return self.signature.verify(self.digest) if self.signature is not None else None

    def runs(self) -> list[str]:
        """A line for each thing that a client would start; nothing of it is started here.

        Raises `AppError` for commands that cannot be read.
        """
        entry = self.manifest.entry
        if entry.endswith(".py"):
            return [f"Python imports {entry}, and calls the functions that it gives to its hansa.App"]
        with tempfile.TemporaryDirectory(prefix="hansa-inspect-") as folder:
            app = read_toml(self.unpack(Path(folder)))
        return [f"{name}: {shlex.join(arguments)}" for name, arguments in app.commands.items()]

    def described(self) -> dict[str, Any]:
        """What it holds, who has signed it and what would run, as plain values; raises `AppError`, as `signer`."""
        return {
            "name": self.manifest.name,
            "digest": self.digest,
            "id": self.id,
            "signer": self.signer(),
            "runs": self.runs(),
            "requirements": list(self.requirements),
            "files": {
                name: {"size": packed.size, "blake3": packed.blake3, "executable": packed.executable}
                for name, packed in sorted(self.manifest.files.items())
            },
        }

    def unpack(self, folder: Path) -> Path:
        """Write the files into a folder and return the app's path in it; raises `StorageError`."""
        with explained("unpack the package to", folder):
            for name, file in self.files.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.content)
                target.chmod(0o755 if file.executable else 0o644)
        return (folder / self.manifest.entry).resolve()


def build(path: str | Path, *, name: str | None = None, key: str | None = None) -> bytes:
    """The app at this path as an archive: a file with the modules beside it that it imports, or a folder's files.

    Of a folder, hidden files, `__pycache__`, `hansa-data`, results of runs and what a `.hansaignore` names are left
    out. name: by default the app's; key: a private key (PEM) that signs it. Raises `AppError` when it is too large, has
    no app, or a name that not every system can write.
    """
    given = Path(path)
    app = find_app(given)
    modules = modules_beside(app)
    found = _files(given, modules) if given.is_dir() else {app.name: app, **modules}
    total = sum(file.stat().st_size for file in found.values())
    if total > MAX_BYTES or len(found) > MAX_FILES - 2:
        raise AppError(
            f"{given} has {len(found):,} files of {total:,} bytes; a package has at most {MAX_FILES - 2:,} files and "
            f"{MAX_BYTES:,} bytes: give data by another way than the package"
        )
    for reserved in (MANIFEST, SIGNATURE):
        if reserved in found:
            raise AppError(f"{given} has a file {reserved}, which a package writes itself: remove it, or rename it")
    files = {
        relative: File(file.read_bytes(), bool(file.stat().st_mode & stat.S_IXUSR)) for relative, file in found.items()
    }
    manifest = Manifest(
        name if name is not None else package_name(given),
        app.name,
        {relative: Packed.of(file) for relative, file in files.items()},
        REQUIREMENTS if REQUIREMENTS in files else None,
    )
    made = archive.write({MANIFEST: File(manifest.encode()), **files})
    read(made)  # what is built can be opened
    return signed(made, key) if key is not None else made


def read(data: bytes | memoryview) -> Package:
    """Open an archive. Raises `AppError` for what is no package, is hostile, or differs from its manifest.

    Whether its signature holds `Package.signer` says.
    """
    files = archive.read(data)
    if MANIFEST not in files:
        raise AppError(f"the package has no {MANIFEST}: `hansa package create` makes a package of a folder")
    manifest = Manifest.decode(files.pop(MANIFEST).content)
    signature = Signature.decode(files.pop(SIGNATURE).content) if SIGNATURE in files else None
    manifest.check(files)
    lock = manifest.requirements
    requirements = check_lock(files[lock].content, lock) if lock is not None else ()
    return Package(manifest, files, requirements, signature, blake3(data).hexdigest())


def signed(data: bytes, key: str) -> bytes:
    """The same package with a signature, in place of the one that it had. key: a private key, PEM."""
    package = read(data)
    parts = {MANIFEST: package.manifest.encode(), SIGNATURE: sign(package.digest, key).encode()}
    return archive.write({**{name: File(content) for name, content in parts.items()}, **package.files})


def package_name(app: Path) -> str:
    """A name for a package: of the app's folder where the file has none of its own."""
    path = app.resolve()
    name = path.parent.name if path.is_file() and path.stem in {"app", "hansa"} else path.stem
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name)
    return kept.strip(".-")[:100] or "app"


def _files(folder: Path, modules: Mapping[str, Path]) -> dict[str, Path]:
    """In the order in which each folder's are together: by it, the same files have the digest that they always had.

    modules: of the app; they belong to it also where results lie beside them.
    """
    is_ignored = ignored(folder)
    among_results = {
        relative: file
        for relative, file in modules.items()
        if any(are_results(folder / place) for place in PurePosixPath(relative).parents if place.name)
    }
    found = {
        relative: file
        for relative, file in {**dict(_found(folder)), **among_results}.items()
        if file.is_file() and not file.is_symlink() and not is_ignored(relative)
    }
    return dict(sorted(found.items(), key=lambda each: each[0].split("/")))


def _found(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = [
            name for name in folders if not (name.startswith(".") or name in _LEFT_OUT or are_results(here / name))
        ]
        for file in (here / name for name in names if not name.startswith(".") and name not in _LEFT_OUT):
            yield file.relative_to(folder).as_posix(), file
