"""From a URL to a store. The entry-point group `hansa.stores` has one factory for each kind of store, by name.

| URL                                             | name       | store                               |
|-------------------------------------------------|------------|-------------------------------------|
| sqlite:///relative.db, sqlite:////absolute.db   | sqlite     | metadata in one SQLite file         |
| postgresql://user:password@host:port/database   | postgresql | metadata in a PostgreSQL database   |
| a path, file:///absolute/path                   | directory  | objects in a directory              |
| s3://bucket/prefix?endpoint=…                   | s3         | objects in a bucket                 |

What a URL leaves out, the libraries of PostgreSQL and of S3 take from their own standard places (`~/.pgpass`, PG*;
AWS_*, the role of the machine): hansa itself reads no variable but its own, and repeats no password.

A factory is `factory(url: str) -> MetadataStore | ObjectStore`; its name is the scheme of its URLs (`directory`: file).
A store of another package registers under the scheme that it serves; the built-in names cannot be taken.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from blake3 import blake3

from hansa.errors import ConfigError, MissingExtraError
from hansa.store.files import DirectoryObjects
from hansa.store.ports import MetadataStore, ObjectStore

__all__ = ["GROUP", "directory", "open_objects", "open_store", "postgresql", "s3", "sqlite"]

GROUP: Final = "hansa.stores"
Factory: TypeAlias = Callable[[str], Any]
S = TypeVar("S")

_CACHE: Final = 10 << 30
"""Bytes of objects that a host keeps of a bucket, unless its URL says otherwise."""


def open_store(url: str) -> MetadataStore:
    """The metadata store at a URL, not connected yet: `await store.open()` does that.

    Raise `ConfigError` for a URL that no store serves, `MissingExtraError` for one whose libraries are not installed.
    """
    example = "sqlite:///path/to/hansa.db"
    if not _scheme(url):
        raise ConfigError(f"{_shown(url)} does not say which kind of store it is: write {example}")
    return _opened(url, MetadataStore, "a metadata store", example)  # type: ignore[type-abstract]  # isinstance is all


def open_objects(url: str) -> ObjectStore:
    """The object store at a URL or in a directory. Errors as of `open_store`."""
    return _opened(url, ObjectStore, "an object store", "file:///path/to/objects")  # type: ignore[type-abstract]  # isinstance is all


def sqlite(url: str) -> MetadataStore:
    """`sqlite:///relative/path` or `sqlite:////absolute/path`: the path is what follows the third slash."""
    parts = _without_extras(url)
    if parts.netloc or not parts.path.startswith("/") or parts.path in ("/", "/:memory:"):
        raise ConfigError(f"{url!r} names no file: write sqlite:///path, or sqlite:////path for an absolute path")
    try:
        from hansa.store.sqlite import SqliteStore  # noqa: PLC0415  # only a server has SQLAlchemy
    except ModuleNotFoundError as error:
        raise MissingExtraError("the SQLite store", "server") from error
    return SqliteStore(Path(parts.path[1:]))


def postgresql(url: str) -> MetadataStore:
    """`postgresql://user:password@host:port/database`; parameters of libpq may follow (`?sslmode=verify-full`)."""
    try:
        from hansa.store.postgres import PostgresStore  # noqa: PLC0415  # only a server has SQLAlchemy and psycopg
    except ImportError as error:  # psycopg raises it where it finds no libpq
        raise MissingExtraError("the PostgreSQL store", "server,postgres") from error
    return PostgresStore(url)


def s3(url: str) -> ObjectStore:
    """`s3://bucket/prefix`; `?endpoint=…&region=…` for other services than Amazon's, `&cache=/path&cache_bytes=…`."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise ConfigError("the URL of the S3 store names no bucket: write s3://bucket/prefix?endpoint=https://host")
    try:
        from hansa.store.cache import ObjectCache  # noqa: PLC0415  # the same
        from hansa.store.s3 import S3Objects  # noqa: PLC0415  # only a server has obstore
    except ImportError as error:
        raise MissingExtraError("the S3 store", "s3") from error
    prefix = unquote(parts.path).strip("/")
    limit = options.pop("cache_bytes", str(_CACHE))
    if not limit.isascii() or not limit.isdigit():
        raise ConfigError(f"cache_bytes = {limit!r}: it is a whole number of bytes, 0 or more")
    place = blake3("\n".join((options.get("endpoint", ""), parts.netloc, prefix)).encode()).hexdigest(8)
    cache = Path(options.pop("cache", f"~/.cache/hansa/objects/{place}")).expanduser()
    return S3Objects(parts.netloc, prefix, ObjectCache(cache, int(limit)), options)


def directory(url: str) -> ObjectStore:
    """A path, or `file:///absolute/path` with its special characters percent-encoded."""
    if _scheme(url) != "file":
        if not url:
            raise ConfigError("the object store needs a directory: give its path, or file:///path")
        return DirectoryObjects(Path(url).expanduser())
    parts = _without_extras(url)
    if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
        raise ConfigError(f"{url!r} names no directory of this machine: write file:///path, with three slashes")
    return DirectoryObjects(Path("/" + unquote(parts.path).lstrip("/")))


_BUILT_IN: Final[Mapping[str, Factory]] = {
    "sqlite": sqlite,
    "postgresql": postgresql,
    "postgres": postgresql,
    "directory": directory,
    "s3": s3,
}


def _opened(url: str, port: type[S], purpose: str, example: str) -> S:
    scheme = _scheme(url)
    name = "directory" if scheme in ("", "file") else scheme
    factory = _BUILT_IN.get(name) or _registered(name)
    if factory is None:
        known = ", ".join(sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))}))
        raise ConfigError(f"{_shown(url)}: no store serves {name!r}; the stores are {known}. Give {example}")
    store = factory(url)
    if not isinstance(store, port):
        raise ConfigError(f"{_shown(url)} is not the URL of {purpose}; give {example}")
    return store


def _registered(name: str) -> Factory | None:
    for entry in entry_points(group=GROUP, name=name):
        factory: Factory = entry.load()
        return factory
    return None


def _scheme(url: str) -> str:
    """The scheme of a URL; empty for a path (one letter is a drive)."""
    scheme, colon, _ = url.partition(":")
    return scheme.lower() if colon and len(scheme) > 1 and scheme.replace("+", "").isalnum() else ""


def _shown(url: str) -> str:
    """A URL as a message may repeat it: whatever may hold a password is left out."""
    scheme = _scheme(url)
    if scheme in ("file", "sqlite") or "@" not in url:
        return repr(url if scheme in ("", "file", "sqlite", "directory") else f"{scheme}://…")
    return repr(f"{scheme}://…" if scheme else "…")


def _without_extras(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ConfigError(f"{url!r}: a store's URL has no ?query and no #fragment")
    return parts
