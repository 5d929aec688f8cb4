import asyncio
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hansa.errors import ConfigError, MissingExtraError
from hansa.store.files import DirectoryObjects
from hansa.store.opening import open_objects, open_store
from hansa.store.ports import MetadataStore, ObjectStore
from hansa.store.postgres import PostgresStore
from hansa.store.s3 import S3Objects
from hansa.store.sqlite import SqliteStore


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///hansa.db", "hansa.db"),
        ("sqlite:///data/hansa.db", "data/hansa.db"),
        ("sqlite:////var/lib/hansa/hansa.db", "/var/lib/hansa/hansa.db"),
        ("SQLite:////a b/100%.db", "/a b/100%.db"),
    ],
)
def test_a_sqlite_url_is_a_database_at_a_path(url: str, path: str):
    store = open_store(url)

    assert isinstance(store, SqliteStore)
    assert store.path == Path(path)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("objects", "objects"),
        ("/var/lib/hansa", "/var/lib/hansa"),
        ("./a:b", "a:b"),
        ("~/hansa", str(Path("~/hansa").expanduser())),
        ("file:///var/lib/hansa", "/var/lib/hansa"),
        ("file:////var/lib/hansa", "/var/lib/hansa"),
        ("file://localhost/var/lib/hansa", "/var/lib/hansa"),
        (Path("/a b/ü").as_uri(), "/a b/ü"),
    ],
)
def test_a_path_or_a_file_url_is_a_directory_of_objects(url: str, path: str):
    objects = open_objects(url)

    assert isinstance(objects, DirectoryObjects)
    assert objects.root == Path(path)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://host/db", "no store serves 'mysql'; the stores are directory, postgres, postgresql, s3, sqlite"),
        ("s3://bucket/prefix", "'s3://…' is not the URL of a metadata store"),
        ("hansa.db", "sqlite:///path/to/hansa.db"),
        ("", "sqlite:///path/to/hansa.db"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:hansa.db", "names no file"),
        ("sqlite://hansa.db", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("/var/hansa.db", "which kind"),
        ("sqlite:///a.db?mode=ro", r"no \?query"),
        ("file:///objects", "not the URL of a metadata store"),
        ("directory:///objects", "not the URL of a metadata store"),
    ],
)
def test_a_url_of_no_metadata_store_is_refused_with_what_to_give(url: str, says: str):
    with pytest.raises(ConfigError, match=says):
        open_store(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("gopher://x", "no store serves 'gopher'; the stores are"),
        ("postgresql://user:s3cret@host/db", "'postgresql://…' is not the URL of an object store"),
        ("", "give its path"),
        ("file://host/share", "of this machine"),
        ("file:///", "of this machine"),
        ("sqlite:///a.db", "not the URL of an object store"),
    ],
)
def test_a_url_of_no_object_store_is_refused_with_what_to_give(url: str, says: str):
    with pytest.raises(ConfigError, match=says):
        open_objects(url)


@pytest.mark.parametrize("url", ["postgresql://keeper@host/db", "postgres://keeper@host/db"])
def test_a_postgresql_url_is_a_database(url: str):
    assert isinstance(open_store(url), PostgresStore)


def test_an_s3_url_is_a_bucket():
    assert isinstance(open_objects("s3://bucket/prefix?region=eu-north-1"), S3Objects)


@pytest.mark.parametrize(
    ("opened", "url", "module", "extra"),
    [
        (open_store, "postgresql://host/db", "psycopg", r"hansa\[server,postgres\]"),
        (open_objects, "s3://bucket", "obstore", r"hansa\[s3\]"),
    ],
)
def test_a_store_whose_library_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, opened: Callable[[str], object], url: str, module: str, extra: str
):
    for name in [name for name in sys.modules if name.startswith(("hansa.store.postgres", "hansa.store.s3"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(MissingExtraError, match=extra):
        opened(url)


async def test_a_store_is_opened_by_its_url_and_ready_to_use(tmp_path: Path):
    store = open_store(f"sqlite:///{tmp_path}/deep/er/hansa.db")
    objects = open_objects((tmp_path / "objects").as_uri())
    await store.open()

    digest = await objects.put([b"bytes"])

    assert isinstance(store, MetadataStore)
    assert isinstance(objects, ObjectStore)
    assert (await objects.fetch(digest)).is_relative_to(tmp_path / "objects")
    assert (tmp_path / "deep" / "er" / "hansa.db").exists()
    await store.close()


def test_a_plug_in_serves_its_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "their_store-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: their_store\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[hansa.stores]\ntheirs = their_store:objects\n")
    (tmp_path / "their_store.py").write_text(
        "from hansa.store.files import DirectoryObjects\n"
        "def objects(url): return DirectoryObjects(url.removeprefix('theirs://'))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()

    objects = open_objects(f"theirs://{tmp_path}/kept")
    asyncio.run(objects.put([b"x"]))

    assert (tmp_path / "kept").is_dir()
    with pytest.raises(ConfigError, match="the stores are directory, postgres, postgresql, s3, sqlite, theirs"):
        open_objects("others://x")
