"""Hostile archives over the package route: refused with a sentence, and not a byte of them is written anywhere."""

import gzip
import io
import random
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from served import Served

from hansa.packages.archive import MAX_BYTES, MAX_FILES, File, read, write
from hansa.packages.package import build
from hansa.packages.signature import SIGNATURE, new_key, read_key

BASE = "/api/v1/projects/default"
MARK = b"a mark that only the hostile archives hold"
APP = b"import hansa\n\napp = hansa.App()\n# " + MARK


def zipped(*names: str, content: bytes = MARK, kind: int = 0) -> bytes:
    """An archive with an app and entries of these names, of this kind of file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(zipfile.ZipInfo("app.py"), APP)
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (kind | 0o777) << 16 if kind else 0
            opened.writestr(entry, content)
    return buffer.getvalue()


def tarred(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for each, content in (("app.py", APP), (name, MARK)):
            entry = tarfile.TarInfo(each)
            entry.size = len(content)
            if each == name:
                entry.type, entry.linkname, entry.size = kind, target, 0 if target or kind == tarfile.CHRTYPE else 42
            opened.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def bomb() -> bytes:
    """100 kB that would become 2 × 40 MiB."""
    return zipped("a", "b", content=bytes(40 << 20))


def lying_bomb() -> bytes:
    """A bomb that announces 10 bytes."""
    size = 50 << 20
    return zipped("bomb", content=bytes(size)).replace(size.to_bytes(4, "little"), (10).to_bytes(4, "little"))


def swarm() -> bytes:
    """A directory of a million files of no bytes; each would be an object in the server's memory."""
    entry = b"PK\x01\x02" + struct.pack("<6H3I5H2I", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count = 1_000_000
    return entry * count + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 0, 0, len(entry) * count, 0, 0)


def wide(data: bytes) -> bytes:
    """With the end of the 64-bit kind, which says again, and differently, how much there is."""
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, 60 << 20, 0)
    return data[:-22] + record + b"PK\x06\x07" + struct.pack("<IQI", 0, len(data) - 22, 1) + data[-22:]


def changed(name: str) -> bytes:
    """A package with another file, or one more, than its manifest says."""
    return write({**read(packed()), name: File(MARK)})


def stolen() -> bytes:
    """A package with the signature of another."""
    with tempfile.TemporaryDirectory() as folder:
        new_key(Path(folder) / "key.pem")
        other = packed("other", read_key(Path(folder) / "key.pem"))
    return write({**read(packed()), SIGNATURE: read(other)[SIGNATURE]})


def packed(name: str = "app", key: str | None = None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_bytes(APP)
        return build(folder, name=name, key=key)


def crowd() -> bytes:
    return zipped(*(f"f{i}" for i in range(MAX_FILES)), content=b"")


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "above": (lambda: zipped("../../evil.py"), "names no file inside its folder"),
    "hidden-above": (lambda: zipped("a/../../evil.py"), "names no file inside its folder"),
    "absolute": (lambda: zipped("/tmp/hansa-evil.py"), "names no file inside its folder"),  # noqa: S108 - hostile
    "drive": (lambda: zipped("C:\\evil.py"), "a sign in its name that not every system can write"),
    "symlink": (lambda: zipped("link", content=b"/etc/passwd", kind=stat.S_IFLNK), "no ordinary file"),
    "device": (lambda: zipped("zero", kind=stat.S_IFCHR), "no ordinary file"),
    "block-device": (lambda: zipped("disk", kind=stat.S_IFBLK), "no ordinary file"),
    "pipe": (lambda: zipped("pipe", kind=stat.S_IFIFO), "no ordinary file"),
    "bomb": (bomb, "larger than 10,000 files or 67,108,864 bytes"),
    "lying-bomb": (lying_bomb, "can be read"),
    "twice": (lambda: zipped("APP.py"), "twice"),
    "file-and-folder": (lambda: zipped("a", "a/b"), "twice"),
    "crowd": (crowd, "larger than 10,000 files"),
    "swarm": (swarm, "larger than 10,000 files"),
    "wide": (lambda: wide(zipped()), "of the 64-bit kind"),
    "comment": (lambda: zipped()[:-2] + (4).to_bytes(2, "little") + b"PK\5\6", "has a comment"),
    "cut": (lambda: zipped("a.py")[:-30], "can be read"),
    "no-manifest": (zipped, "has no hansa-package.json"),
    "setuid": (lambda: zipped("tool", kind=stat.S_IFREG | stat.S_ISUID), "another's rights"),
    "windows": (lambda: zipped("aux.py"), "a device on Windows"),
    "changed": (lambda: changed("app.py"), "'app.py' is not what its manifest says"),
    "smuggled": (lambda: changed("more.py"), "'more.py' is not in its manifest"),
    "stolen-signature": (stolen, "signature does not hold"),
    "tar": (lambda: tarred("fine.py"), "can be read"),
    "tar-above": (lambda: tarred("../../evil.py"), "can be read"),
    "tar-symlink": (lambda: tarred("link", tarfile.SYMTYPE, "/etc/passwd"), "can be read"),
    "tar-device": (lambda: tarred("zero", tarfile.CHRTYPE), "can be read"),
    "tar-gz-bomb": (lambda: gzip.compress(bytes(70 << 20)), "can be read"),
}


@pytest.fixture
def http(served: Served) -> httpx.Client:
    return served.http(served.token())


def holding(folder: Path) -> list[Path]:
    """Files in the folder, and where a hostile name points to, that hold the mark."""
    outside = [folder.parent / "evil.py", folder / "evil.py", Path("/tmp/hansa-evil.py"), Path("evil.py")]  # noqa: S108
    found = [path for path in folder.rglob("*") if path.is_file() and MARK in path.read_bytes()]
    return [*found, *(path for path in outside if path.exists())]


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_archive_is_refused_with_a_reason_and_nothing_of_it_is_kept(
    what: str, http: httpx.Client, served: Served
) -> None:
    make, said = HOSTILE[what]
    files = {path for path in served.folder.rglob("*") if "events" not in path.name}
    answer = http.post(f"{BASE}/packages", content=make())
    assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    problem = answer.json()
    assert problem["type"] == "urn:hansa:problem:app"
    assert said in problem["detail"]
    assert http.get(f"{BASE}/packages").json()["total"] == 0
    assert {path for path in served.folder.rglob("*") if "events" not in path.name} <= files
    assert holding(served.folder) == []
    assert http.get("/healthz").text == "ok"


def test_a_package_as_large_as_packages_may_be_passes_the_gate(http: httpx.Client, tmp_path: Path) -> None:
    rng = random.Random(0)  # noqa: S311 - bytes that do not shrink
    (tmp_path / "app.py").write_bytes(APP)
    (tmp_path / "weights").write_bytes(rng.randbytes(MAX_BYTES - len(APP) - 1000))
    archive = build(tmp_path)
    assert len(archive) > MAX_BYTES - 1000
    assert http.post(f"{BASE}/packages", content=archive, timeout=60).status_code == httpx.codes.CREATED
