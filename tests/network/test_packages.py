"""Packages: what goes in comes out, and nothing of a hostile archive is ever written."""

import io
import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from hansa import packages
from hansa.errors import AppError
from hansa.packages import pack, unpack

APP = "import hansa\n\napp = hansa.App()\n"


def archive(*names: str, content: bytes = b"x", **attributes: int) -> bytes:
    """An archive with an app.py and entries of these names, each with these attributes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr(zipfile.ZipInfo("app.py"), APP)
        for name in names:
            entry = zipfile.ZipInfo("placeholder")
            entry.filename = entry.orig_filename = name
            for attribute, value in attributes.items():
                setattr(entry, attribute, value)
            opened.writestr(entry, content)
    return buffer.getvalue()


def refuse(data: bytes, folder: Path, match: str) -> None:
    """It is refused, and nothing has been written anywhere."""
    inside = folder / "deep" / "inside"
    with pytest.raises(AppError, match=match):
        unpack(data, inside)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "a/../../evil.py",
        "/etc/evil.py",
        "//evil.py",
        "./a.py",
        "a//b.py",
        "a/",
        "..",
        "a/..",
        "C:/evil.py",
        "a/C:evil.py",
        "..\\evil.py",
        "a\nb.py",
        "a\x1b[31m.py",
        "a ",
        "a.",
        "x" * 300,
        "/".join("abcdefgh" * 5),
    ],
)
def test_an_entry_outside_the_folder_or_without_a_portable_name_is_refused(name: str, tmp_path: Path) -> None:
    refuse(archive(name), tmp_path, "was not unpacked")


def test_a_name_with_nul_is_refused_though_a_reader_cuts_it(tmp_path: Path) -> None:
    data = archive("aXpy").replace(b"aXpy", b"a\0py")
    assert "a" in zipfile.ZipFile(io.BytesIO(data)).namelist()
    refuse(data, tmp_path, "not every system can write")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_what_is_no_ordinary_file_is_refused(kind: int, tmp_path: Path) -> None:
    refuse(archive("link", content=b"/etc/passwd", external_attr=(kind | 0o777) << 16), tmp_path, "no ordinary file")


@pytest.mark.parametrize(
    "names",
    [("a.py", "a.py"), ("a.py", "A.py"), ("a", "a/b"), ("a/b", "A"), ("ä.py", "a\u0308.py"), ("ß", "SS"), ("APP.py",)],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_that_some_system_writes_to_one_place_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    refuse(archive(*names), tmp_path, "twice")


def test_a_bomb_is_refused_by_what_it_announces(tmp_path: Path) -> None:
    half = bytes(packages.MAX_BYTES // 2)
    refuse(archive("a", "b", content=half, compress_type=zipfile.ZIP_DEFLATED), tmp_path, "larger than")


def test_a_bomb_that_lies_about_its_size_is_refused_after_what_it_announced(tmp_path: Path) -> None:
    data = archive("bomb", content=bytes(10_000_000), compress_type=zipfile.ZIP_DEFLATED)
    true, false = struct.pack("<I", 10_000_000), struct.pack("<I", 10)
    assert data.count(true) == 2  # in its own header and in the directory
    refuse(data.replace(true, false), tmp_path, "not as large as announced|cannot be read|can be read")


def test_more_entries_than_a_package_may_have_are_refused(tmp_path: Path) -> None:
    refuse(archive(*(f"f{i}" for i in range(packages.MAX_FILES))), tmp_path, "larger than")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(method: int, tmp_path: Path) -> None:
    refuse(archive("a.py", compress_type=method), tmp_path, "unusual way")


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    data = bytearray(archive("secret.py"))
    at = data.rindex(b"PK\x01\x02")
    data[at + 8] |= 1
    refuse(bytes(data), tmp_path, "encrypted")


@pytest.mark.parametrize("data", [b"", b"PK", b"no archive at all", bytes(1000)])
def test_what_is_no_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    refuse(data, tmp_path, "cannot be read|can be read")


def test_every_cut_and_every_flipped_byte_is_an_app_error_or_harmless(tmp_path: Path) -> None:
    data = archive("a.py", content=b"hello" * 20, compress_type=zipfile.ZIP_DEFLATED)
    for index in range(len(data)):
        for number, broken in enumerate((data[:index], data[:index] + bytes([data[index] ^ 0xFF]) + data[index + 1 :])):
            folder = tmp_path / f"{index}-{number}"
            try:
                unpack(broken, folder)
            except AppError:
                assert not folder.exists()


def test_a_package_without_an_app_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("README.md", "no app")
    refuse(buffer.getvalue(), tmp_path, "neither an app.py nor a hansa.toml")


def make_app(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "lib").mkdir()
    (folder / "lib" / "part.py").write_text("x = 1\n")
    tool = folder / "train.sh"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    return folder


def test_a_folder_comes_out_as_it_went_in_with_executables(tmp_path: Path) -> None:
    source = make_app(tmp_path / "source")
    found = unpack(pack(source), tmp_path / "out")
    assert found == (tmp_path / "out" / "app.py").resolve()
    assert (tmp_path / "out" / "lib" / "part.py").read_text() == "x = 1\n"
    assert os.access(tmp_path / "out" / "train.sh", os.X_OK)
    assert not os.access(tmp_path / "out" / "app.py", os.X_OK)


def test_a_single_file_of_any_name_is_an_app(tmp_path: Path) -> None:
    source = tmp_path / "digits.py"
    source.write_text(APP)
    assert unpack(pack(source), tmp_path / "out").name == "digits.py"


def test_the_same_files_give_the_same_bytes_whenever_and_in_whatever_order_they_were_written(tmp_path: Path) -> None:
    one, other = make_app(tmp_path / "one"), tmp_path / "other"
    other.mkdir()
    for file in sorted((path for path in one.rglob("*") if path.is_file()), reverse=True):
        copy = other / file.relative_to(one)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
        copy.chmod(file.stat().st_mode)
        os.utime(copy, (1, 1))
    assert pack(one) == pack(other)


def test_hidden_files_caches_and_links_stay_at_home(tmp_path: Path) -> None:
    source = make_app(tmp_path / "source")
    (source / ".env").write_text("TOKEN=secret")
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "app.pyc").write_bytes(b"")
    (source / "passwords").symlink_to("/etc/passwd")
    assert sorted(zipfile.ZipFile(io.BytesIO(pack(source))).namelist()) == ["app.py", "lib/part.py", "train.sh"]


def test_a_folder_that_is_too_large_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_app(tmp_path / "source")
    monkeypatch.setattr(packages, "MAX_BYTES", 10)
    with pytest.raises(AppError, match="give data by another way"):
        pack(source)
