"""Packages: what goes in comes out; what differs from the manifest, or was not signed as it says, does not."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hansa.errors import AppError, InputError
from hansa.packages import archive, package, signature
from hansa.packages.archive import File
from hansa.packages.manifest import MANIFEST, Manifest, Packed
from hansa.packages.package import build, read, signed
from hansa.packages.requirements import check_lock
from hansa.packages.signature import SIGNATURE, new_key, public_key, read_key
from hansa.store.results import mark_results

APP = "import hansa\n\napp = hansa.App()\n"
HASH = "--hash=sha256:" + "0" * 64


def make_app(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "lib").mkdir()
    (folder / "lib" / "part.py").write_text("x = 1\n")
    tool = folder / "train.sh"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def packed(files: dict[str, File], manifest: bytes | None = None, **fields: object) -> bytes:
    """An archive of these files with a manifest of theirs, or with this one."""
    listed = {name: Packed.of(file) for name, file in files.items()}
    made = Manifest(**{"name": "app", "entry": "app.py", "files": listed, **fields})  # type: ignore[arg-type]
    return archive.write({MANIFEST: File(manifest or made.encode()), **files})


@pytest.fixture
def key(tmp_path: Path) -> str:
    new_key(tmp_path / "keys" / "key.pem")
    return read_key(tmp_path / "keys" / "key.pem")


def test_a_folder_comes_out_as_it_went_in_with_executables_and_nothing_else(tmp_path: Path) -> None:
    source, out = make_app(tmp_path / "source"), tmp_path / "out"
    assert read(build(source)).unpack(out) == (out / "app.py").resolve()
    assert sorted(path.name for path in out.rglob("*")) == ["app.py", "lib", "part.py", "train.sh"]
    assert (out / "lib" / "part.py").read_text() == "x = 1\n"
    assert os.access(out / "train.sh", os.X_OK)
    assert not os.access(out / "app.py", os.X_OK)


def test_a_single_file_of_any_name_is_an_app_and_gives_the_package_its_name(tmp_path: Path) -> None:
    source = tmp_path / "digits.py"
    source.write_text(APP)
    opened = read(build(source))
    assert opened.unpack(tmp_path / "out").name == "digits.py"
    assert opened.manifest.name == "digits"
    assert read(build(source, name="other")).manifest.name == "other"


def test_the_same_files_give_the_same_bytes_whenever_and_in_whatever_order_they_were_written(tmp_path: Path) -> None:
    one, other = make_app(tmp_path / "one" / "app"), tmp_path / "other" / "app"
    other.mkdir(parents=True)
    for file in sorted((path for path in one.rglob("*") if path.is_file()), reverse=True):
        copy = other / file.relative_to(one)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
        copy.chmod(file.stat().st_mode)
        os.utime(copy, (1, 1))
    assert build(one) == build(other)


def test_hidden_files_caches_and_links_stay_at_home(tmp_path: Path) -> None:
    source = make_app(tmp_path / "source")
    (source / ".env").write_text("TOKEN=secret")
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "app.pyc").write_bytes(b"")
    (source / "passwords").symlink_to("/etc/passwd")
    assert sorted(read(build(source)).files) == ["app.py", "lib/part.py", "train.sh"]


def test_a_file_takes_with_it_the_modules_beside_it_that_it_imports(tmp_path: Path) -> None:
    files = {
        "app.py": "import os, numpy, helper\nfrom lib.part import x\nfrom lib import *\n" + APP,
        "helper.py": "from nets import small as net\n",
        "nets/__init__.py": "",
        "nets/small.py": "from . import layers\nfrom .. import app\nfrom ...far import away\n",
        "nets/layers.py": "this is no Python",
        "nets/large.py": "",
        "lib/part.py": "import app\n",
        "data.csv": "",
        "other.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    taken = ["app.py", "helper.py", "lib/part.py", "nets/__init__.py", "nets/layers.py", "nets/small.py"]
    assert sorted(read(build(tmp_path / "app.py")).files) == taken
    link = tmp_path / "nets" / "link.py"
    link.symlink_to(tmp_path / "app.py")  # what runs is what it points to
    assert read(build(link, name="app")).files == read(build(tmp_path / "app.py", name="app")).files


def test_a_folder_has_the_digest_that_it_has_always_had(tmp_path: Path) -> None:
    """Its files are in the order of paths; in that of their names, `lib.py` would come before `lib/part.py`."""
    names = list(read(build(make_app(tmp_path / "source", **{"lib.py": "", "lib-x.py": ""}))).files)
    assert names == ["app.py", "lib/part.py", "lib-x.py", "lib.py", "train.sh"]


def test_results_of_runs_stay_at_home(tmp_path: Path) -> None:
    source = make_app(tmp_path / "source")
    before = build(source)
    mark_results(source / "lib" / "sweep")
    (source / "lib" / "sweep" / "cells").mkdir()
    (source / "lib" / "sweep" / "cells" / "manifest.json").write_text("{}")
    assert build(source) == before
    (source / "app.py").write_text(f"from lib.part import x\n{APP}")
    mark_results(source / "lib")  # by who keeps them beside the app's modules
    assert sorted(read(build(source)).files) == ["app.py", "lib/part.py", "train.sh"]


def test_a_folder_that_is_too_large_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_app(tmp_path / "source")
    monkeypatch.setattr(package, "MAX_BYTES", 10)
    with pytest.raises(AppError, match="give data by another way"):
        build(source)


@pytest.mark.parametrize("name", ["CON.py", "a:b.py", "hansa-package.json", "HANSA-PACKAGE.JSON"])
def test_a_folder_with_a_name_that_no_package_may_have_is_refused_where_it_is_packed(name: str, tmp_path: Path) -> None:
    with pytest.raises(AppError, match=r"device|every system|writes itself|twice"):
        build(make_app(tmp_path / "source", **{name: "x"}))


# ── the manifest ─────────────────────────────────────────────────────────────────────────────────────────────────────


FILES = {"app.py": File(APP.encode()), "tool": File(b"#!", executable=True)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({**FILES, "app.py": File(b"import os")}, "'app.py' is not what its manifest says"),
        ({**FILES, "tool": File(b"#!")}, "'tool' is not what its manifest says"),
        ({"app.py": FILES["app.py"]}, "'tool' is listed in its manifest and is not there"),
        ({**FILES, "more.py": File(b"")}, "'more.py' is not in its manifest"),
    ],
)
def test_a_file_that_differs_from_the_manifest_is_refused(changed: dict[str, File], said: str) -> None:
    manifest = Manifest("app", "app.py", {name: Packed.of(file) for name, file in FILES.items()}).encode()
    assert read(packed(FILES, manifest)).manifest.name == "app"
    with pytest.raises(AppError, match=said):
        read(packed(changed, manifest))


def edited(**changes: object) -> bytes:
    files = {name: Packed.of(file) for name, file in FILES.items()}
    document = json.loads(Manifest("app", "app.py", files).encode()) | changes
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "must have exactly"),
        (edited(extra=1), "'extra' is missing, or means nothing"),
        (edited(format=2), "install a newer hansa"),
        (edited(format=True), "format True"),
        (edited(name="../x"), "name"),
        (edited(name=3), "name"),
        (edited(entry="tool"), "no app"),
        (edited(entry="absent.py"), "no app"),
        (edited(entry=None), "no app"),
        (edited(files=[]), "no object"),
        (edited(files={"app.py": {"blake3": "0" * 64, "size": True, "executable": False}}), "no digest"),
        (edited(files={"app.py": {"blake3": "0" * 63, "size": 1, "executable": False}}), "no digest"),
        (edited(files={"app.py": {"blake3": "0" * 64, "size": 1}}), "'executable' is missing"),
        (edited(requirements="absent.lock"), "not among its files"),
        (edited() + b" ", "one form"),
        (edited().replace(b'"name"', b'"name": "app",\n "name"'), "one form"),
        (edited().replace(b'"app"', b'"\\u0061pp"'), "one form"),
    ],
)
def test_a_manifest_that_is_not_in_its_one_form_is_refused_with_what_is_wrong(manifest: bytes, said: str) -> None:
    with pytest.raises(AppError, match=said):
        read(packed(FILES, manifest))


def test_an_archive_without_a_manifest_is_refused_with_what_to_do() -> None:
    with pytest.raises(AppError, match=r"has no hansa-package\.json: `hansa package create`"):
        read(archive.write(FILES))


def test_the_digest_covers_content_name_entry_and_the_right_to_run() -> None:
    variants = [
        packed(FILES),
        packed(FILES, name="other"),
        packed(FILES | {"b.py": File(b"")}, entry="b.py"),
        packed(FILES | {"b.py": File(b"")}),
        packed(FILES | {"tool": File(b"#!")}),
        packed(FILES | {"tool": File(b"#?", executable=True)}),
    ]
    assert len({read(data).digest for data in variants}) == len(variants)


# ── signatures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_signed_package_names_its_signer_and_has_the_same_digest(tmp_path: Path, key: str) -> None:
    plain = build(make_app(tmp_path / "source"))
    opened = read(signed(plain, key))
    assert opened.signer() == public_key(key)
    assert read(plain).signer() is None
    assert opened.digest == read(plain).digest
    assert opened.id != read(plain).id
    assert build(tmp_path / "source", key=key) == signed(plain, key) == signed(signed(plain, key), key)


def test_a_signature_of_another_package_or_by_another_key_does_not_hold(tmp_path: Path, key: str) -> None:
    mine, other = build(make_app(tmp_path / "a"), key=key), build(make_app(tmp_path / "b"), name="other", key=key)
    new_key(tmp_path / "second.pem")
    stranger = public_key(read_key(tmp_path / "second.pem"))
    stolen = archive.read(other)[SIGNATURE]
    claimed = File(stolen.content.replace(public_key(key).encode(), stranger.encode()))
    for false in (stolen, claimed):
        with pytest.raises(AppError, match="has not signed the package"):
            read(archive.write({**archive.read(mine), SIGNATURE: false})).signer()


@pytest.mark.parametrize(
    "change",
    [
        lambda _raw: b"",
        lambda raw: raw + b" ",
        lambda raw: raw.replace(b"ed25519", b"ed448"),
        lambda raw: raw.replace(b'"signature"', b'"signed"'),
        lambda _raw: b"[1, 2]",
        lambda _raw: b'{"public_key": 1, "signature": 2}',
    ],
)
def test_what_is_no_signature_is_refused(change: Callable[[bytes], bytes], tmp_path: Path, key: str) -> None:
    files = archive.read(build(make_app(tmp_path / "a"), key=key))
    with pytest.raises(AppError, match="is no signature"):
        read(archive.write({**files, SIGNATURE: File(change(files[SIGNATURE].content))}))


def test_a_signature_that_was_made_for_another_purpose_does_not_hold() -> None:
    """RFC 8032, section 7.1, test 1: of the empty message."""
    public = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    value = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b"
    )
    with pytest.raises(AppError, match="does not hold"):
        signature.Signature(public, value).verify("")


def test_a_key_is_its_owners_alone_and_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    public = new_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert public == public_key(read_key(path))
    with pytest.raises(InputError, match="never written over"):
        new_key(path)
    path.chmod(0o640)
    with pytest.raises(InputError, match="others on this machine can read"):
        read_key(path)
    with pytest.raises(InputError, match="hansa package key"):
        read_key(tmp_path / "absent.pem")


# ── the lock file ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_file_as_pip_compile_writes_it_is_read() -> None:
    text = f"""#
# This file is autogenerated
#
certifi==2026.1.1 \\
    {HASH} \\
    {HASH}
    # via requests
requests[socks, use-chardet]==2.32.0 ; python_version >= "3.8" and platform_machine != 'arm-64' \\
    --hash=sha512:{"1" * 128}  # why
"""
    assert check_lock(text.encode(), "requirements.lock") == (
        "certifi==2026.1.1",
        "requests[socks, use-chardet]==2.32.0 ; python_version >= \"3.8\" and platform_machine != 'arm-64'",
    )


@pytest.mark.parametrize(
    "line",
    [
        "numpy==2.0",
        f"numpy>=2.0 {HASH}",
        f"numpy==2.* {HASH}",
        "--index-url https://example.org",
        f"--extra-index-url=https://example.org\nnumpy==2.0 {HASH}",
        "-r other.txt",
        "-e .",
        f"./local.whl {HASH}",
        f"numpy @ https://example.org/numpy.whl {HASH}",
        f"numpy==2.0 ; python_version > '3' --index-url=x {HASH}",
        f"numpy==2.0 {HASH} --config-settings=a=b",
        f"numpy==2.0 --global-option=x {HASH}",
        "numpy==2.0 --hash=md5:00000000000000000000000000000000",
        "numpy==2.0 --hash=sha256:0",
        f"numpy==${{TOKEN}} {HASH}",
    ],
)
def test_a_lock_file_with_anything_but_exact_versions_and_hashes_is_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(AppError, match=r"requirements\.lock holds"):
        build(make_app(tmp_path / "source", **{"requirements.lock": line + "\n"}))


@pytest.mark.parametrize("line", ["six==1 ;{}x", "six=={}", "six=={}1.0 --hash=x", "six;{}--hash=", "{}#"])
def test_a_lock_file_with_a_line_of_many_spaces_is_read_once(line: str) -> None:
    text = line.format(" " * 1_000_000)
    if text.strip() == "#":
        assert check_lock(text.encode(), "requirements.lock") == ()
        return
    with pytest.raises(AppError, match=r"requirements\.lock holds"):  # not after some hours
        check_lock(text.encode(), "requirements.lock")


def test_a_lock_file_beside_the_app_is_named_in_the_manifest(tmp_path: Path) -> None:
    opened = read(build(make_app(tmp_path / "source", **{"requirements.lock": f"six==1.16.0 {HASH}\n"})))
    assert opened.manifest.requirements == "requirements.lock"
    assert opened.requirements == ("six==1.16.0",)
