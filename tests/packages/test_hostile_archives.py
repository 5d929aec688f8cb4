"""Every trick that an archive can play: it is refused whole, and nothing of it is ever written."""

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from hansa.errors import AppError
from hansa.packages import archive as strict
from hansa.packages.archive import File
from hansa.packages.manifest import MANIFEST, Manifest, Packed
from hansa.packages.package import read

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


def good() -> bytes:
    files = {"app.py": File(APP.encode()), "a.py": File(b"hello" * 20)}
    manifest = Manifest("app", "app.py", {name: Packed.of(file) for name, file in files.items()})
    return strict.write({MANIFEST: File(manifest.encode()), **files})


def refuse(data: bytes, folder: Path, match: str) -> None:
    """It is refused, and nothing has been written anywhere."""
    inside = folder / "deep" / "inside"
    with pytest.raises(AppError, match=match):
        read(data).unpack(inside)
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
        "CON",
        "a/nul.py",
        "lpt1.tar.gz",
        "Com3 .py",
        "\u2024\u2024/evil.py",
        "x" * 300,
        "\u0315\u0300" * 16_000,
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


@pytest.mark.parametrize("right", [stat.S_ISUID, stat.S_ISGID, stat.S_ISVTX])
def test_a_right_beyond_reading_and_executing_is_refused(right: int, tmp_path: Path) -> None:
    refuse(archive("tool", external_attr=(stat.S_IFREG | right | 0o755) << 16), tmp_path, "another's rights")


@pytest.mark.parametrize(
    "extra",
    [
        struct.pack("<HH", 0x000D, 20) + struct.pack("<IIHH", 0, 0, 0, 0) + b"/etc/pas",  # a link's target, in Unix
        struct.pack("<HH", 0x7855, 4) + struct.pack("<HH", 0, 0),  # an owner: root
        struct.pack("<HH", 0xCAFE, 0),
    ],
)
def test_an_entry_with_a_hard_link_an_owner_or_anything_else_beside_its_bytes_is_refused(
    extra: bytes, tmp_path: Path
) -> None:
    refuse(archive("tool", extra=extra), tmp_path, "more than a name and its bytes")


@pytest.mark.parametrize(
    "names",
    [
        ("a.py", "a.py"),
        ("a.py", "A.py"),
        ("a", "a/b"),
        ("a/b", "A"),
        ("ä.py", "a\u0308.py"),
        ("ß", "SS"),
        ("APP.py",),
        ("\ufb01.py", "fi.py"),
        ("\u212b", "å"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_that_some_system_writes_to_one_place_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    refuse(archive(*names), tmp_path, "twice")


def test_a_bomb_is_refused_by_what_it_announces(tmp_path: Path) -> None:
    half = bytes(strict.MAX_BYTES // 2)
    refuse(archive("a", "b", content=half, compress_type=zipfile.ZIP_DEFLATED), tmp_path, "larger than")


def test_a_bomb_that_lies_about_its_size_is_refused_after_what_it_announced(tmp_path: Path) -> None:
    data = archive("bomb", content=bytes(10_000_000), compress_type=zipfile.ZIP_DEFLATED)
    true, false = struct.pack("<I", 10_000_000), struct.pack("<I", 10)
    assert data.count(true) == 2  # in its own header and in the directory
    refuse(data.replace(true, false), tmp_path, "not as large as announced|cannot be read|can be read")


def test_more_entries_than_a_package_may_have_are_refused(tmp_path: Path) -> None:
    refuse(archive(*(f"f{i}" for i in range(strict.MAX_FILES))), tmp_path, "larger than")


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
    data = good()
    assert read(data).unpack(tmp_path / "good").read_text() == APP
    for index in range(len(data)):
        for number, broken in enumerate((data[:index], data[:index] + bytes([data[index] ^ 0xFF]) + data[index + 1 :])):
            folder = tmp_path / f"{index}-{number}"
            try:
                read(broken).unpack(folder)
            except AppError:
                assert not folder.exists()
            else:
                assert (folder / "app.py").read_text() == APP
                assert (folder / "a.py").read_bytes() == b"hello" * 20
