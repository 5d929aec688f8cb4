"""From a URL to a store. The entry-point group `hansa.stores` has one factory for each kind of store, by name.

| URL                                             | name      | store                       |
|-------------------------------------------------|-----------|-----------------------------|
| sqlite:///relative.db, sqlite:////absolute.db   | sqlite    | metadata in one SQLite file |
| a path, file:///absolute/path                   | directory | objects in a directory      |

A factory is `factory(url: str) -> MetadataStore | ObjectStore`; its name is the scheme of its URLs (`directory`: file).
A store of another package registers under the scheme that it serves; the built-in names cannot be taken.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from hansa.errors import ConfigError, MissingExtraError
from hansa.store.files import DirectoryObjects
from hansa.store.ports import MetadataStore, ObjectStore

__all__ = ["GROUP", "directory", "open_objects", "open_store", "sqlite"]

GROUP: Final = "hansa.stores"
Factory: TypeAlias = Callable[[str], Any]
S = TypeVar("S")

_COMING: Final[Mapping[str, str]] = {"postgresql": "postgres", "postgres": "postgres", "s3": "s3"}
"""Schemes that stores of later versions will serve, and the extras that will bring them."""


def open_store(url: str) -> MetadataStore:
    """The metadata store at a URL, not connected yet: `await store.open()` does that.

    Raise `ConfigError` for a URL that no store serves, `MissingExtraError` for one whose libraries are not installed.
    """
    example = "sqlite:///path/to/hansa.db"
    if not _scheme(url):
        raise ConfigError(f"{url!r} does not say which kind of store it is: write {example}")
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


_BUILT_IN: Final[Mapping[str, Factory]] = {"sqlite": sqlite, "directory": directory}


def _opened(url: str, port: type[S], purpose: str, example: str) -> S:
    scheme = _scheme(url)
    name = "directory" if scheme in ("", "file") else scheme
    factory = _BUILT_IN.get(name) or _registered(name)
    if factory is None:
        if name in _COMING:
            raise ConfigError(
                f"{url!r}: {name} will be served by an extra, hansa[{_COMING[name]}], that this version does not have "
                f"yet; today give {example}"
            )
        known = ", ".join(sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))}))
        raise ConfigError(
            f"{url!r}: no store serves {name!r}; the stores are {known} (to come: postgresql with hansa[postgres], "
            f"s3 with hansa[s3]). Give {example}"
        )
    store = factory(url)
    if not isinstance(store, port):
        raise ConfigError(f"{url!r} is not the URL of {purpose}; give {example}")
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


def _without_extras(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ConfigError(f"{url!r}: a store's URL has no ?query and no #fragment")
    return parts
