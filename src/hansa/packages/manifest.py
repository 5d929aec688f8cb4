"""What a package holds, as one file in it: its name, its entry, and the digest of every other file.

The manifest is JSON in one form only, byte for byte, so that it has one meaning for everybody and one digest: BLAKE3
of its bytes, which is the package's digest. It is the same wherever and whenever the same files are packed, signed or
not, and covers every byte that is ever unpacked.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from blake3 import blake3

from hansa.errors import AppError
from hansa.packages.archive import File

__all__ = ["MANIFEST", "REQUIREMENTS", "Manifest", "Packed"]

MANIFEST: Final = "hansa-package.json"
"""The manifest's name in the archive."""
REQUIREMENTS: Final = "requirements.lock"
"""The name of a lock file, beside the app."""
_FORMAT: Final = 1
_FIELDS: Final = frozenset({"format", "name", "entry", "requirements", "files"})
_FILE_FIELDS: Final = frozenset({"blake3", "size", "executable"})
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Packed:
    """What the manifest says of one file."""

    blake3: str
    """64 hexadecimal digits."""
    size: int
    """Bytes."""
    executable: bool = False

    @classmethod
    def of(cls, file: File) -> "Packed":
        """What a manifest says of this file."""
        return cls(blake3(file.content).hexdigest(), len(file.content), file.executable)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of one package."""

    name: str
    entry: str
    """The file that makes an app of the others: Python code, or a `hansa.toml`."""
    files: Mapping[str, Packed]
    """Every file but the manifest and the signature, by its path in the package."""
    requirements: str | None = None
    """The lock file among them from which the app's environment is installed; None: it needs nothing but hansa."""

    @property
    def digest(self) -> str:
        """The package's digest: BLAKE3 of the manifest, 64 hexadecimal digits."""
        return blake3(self.encode()).hexdigest()

    def encode(self) -> bytes:
        """The manifest's one form."""
        files = {
            name: {"blake3": file.blake3, "size": file.size, "executable": file.executable}
            for name, file in self.files.items()
        }
        document = {
            "format": _FORMAT,
            "name": self.name,
            "entry": self.entry,
            "requirements": self.requirements,
            "files": files,
        }
        return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def decode(cls, raw: bytes) -> "Manifest":
        """Read a manifest. Raises `AppError` that names what is wrong in it."""
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise AppError(f"the package's {MANIFEST} is not JSON: {error}") from error
        manifest = _manifest(document)
        try:
            same = manifest.encode() == raw
        except UnicodeEncodeError:  # half a character, which JSON can write
            same = False
        if not same:
            raise AppError(
                f"the package's {MANIFEST} is not in its one form (keys sorted, none twice, one space to indent): "
                "`hansa package create` writes it"
            )
        return manifest

    def check(self, files: Mapping[str, File]) -> None:
        """Raise `AppError` unless these are the files that the manifest lists, every byte of them."""
        for name in sorted(self.files.keys() ^ files.keys()):
            where = "is listed in its manifest and is not there" if name in self.files else "is not in its manifest"
            raise AppError(f"the package was changed: {name!r} {where}; it was not unpacked")
        for name, file in files.items():
            if Packed.of(file) != self.files[name]:
                raise AppError(f"the package was changed: {name!r} is not what its manifest says; it was not unpacked")


def _manifest(document: Any) -> Manifest:
    table = _closed(document, _FIELDS, "")
    if table["format"] != _FORMAT or isinstance(table["format"], bool):
        raise AppError(
            f"the package is of the format {table['format']!r:.40}, and this version of hansa reads format {_FORMAT}: "
            "build it again, or install a newer hansa"
        )
    name, entry, requirements = table["name"], table["entry"], table["requirements"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise AppError("the package has no name that can be used: take 1 to 100 ASCII letters, digits, '.', '_' or '-'")
    if not isinstance(table["files"], dict):
        raise AppError(f"files in the package's {MANIFEST} is no object")
    files = {path: _packed(path, value) for path, value in table["files"].items()}
    if not isinstance(entry, str) or entry not in files or not entry.endswith((".py", ".toml")):
        raise AppError(
            f"the package's entry {entry!r:.200} is no Python file and no hansa.toml among its files: it has no app"
        )
    if requirements is not None and (not isinstance(requirements, str) or requirements not in files):
        raise AppError(f"the package's lock file {requirements!r:.200} is not among its files")
    return Manifest(name, entry, files, requirements)


def _packed(path: str, value: Any) -> Packed:
    table = _closed(value, _FILE_FIELDS, f" for {path!r:.200}")
    digest, size, executable = table["blake3"], table["size"], table["executable"]
    whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not whole or not isinstance(executable, bool):
        raise AppError(f"what the package's {MANIFEST} says of {path!r:.200} is no digest, size and right to run")
    return Packed(digest, size, executable)


def _closed(value: Any, fields: frozenset[str], where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.keys() != fields:
        found = min(value.keys() ^ fields) if isinstance(value, dict) else "nothing"
        raise AppError(
            f"the package's {MANIFEST} must have exactly {', '.join(sorted(fields))}{where}; {found!r:.100} is "
            "missing, or means nothing"
        )
    return value
