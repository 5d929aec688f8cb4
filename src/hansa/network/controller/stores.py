"""Where a server keeps what it knows: its settings, as stores."""

from pathlib import Path
from typing import Final

from pydantic import SecretStr

from hansa.errors import ConflictError
from hansa.settings import Settings
from hansa.store.opening import open_objects, open_store
from hansa.store.ports import MetadataStore, ObjectStore

__all__ = ["HALF_RESTORED", "keys_of", "names_of_stores", "revealed", "stores_of"]

HALF_RESTORED: Final = "RESTORE-UNFINISHED"
"""A file of the data folder, from the first to the last step of a restore."""


def stores_of(settings: Settings) -> tuple[MetadataStore, ObjectStore]:
    """The database and the objects, not connected yet; raises `ConflictError` where only a part was restored."""
    if (settings.data / HALF_RESTORED).exists():
        raise ConflictError(
            f"{settings.data} is half a restore, which was broken off: remove the folder (and what was put into the "
            "database and the bucket, where HANSA_STORE and HANSA_OBJECTS name some), and restore again"
        )
    store = revealed(settings.store) or f"sqlite:///{settings.data / 'hansa.db'}"
    return open_store(store), open_objects(revealed(settings.objects) or str(settings.data / "objects"))


def names_of_stores(settings: Settings) -> tuple[str, str]:
    """The same two for a person; a URL may hold a password."""
    return (
        "the database of HANSA_STORE" if revealed(settings.store) else f"the database {settings.data / 'hansa.db'}",
        "the object store of HANSA_OBJECTS" if revealed(settings.objects) else str(settings.data / "objects"),
    )


def keys_of(settings: Settings) -> Path:
    """The folder of the server's keys."""
    return settings.data / "keys"


def revealed(setting: SecretStr | None) -> str:
    """What a setting keeps secret; empty: nothing is set."""
    return "" if setting is None else setting.get_secret_value()
