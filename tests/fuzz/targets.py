"""What is fuzzed: each target reads any bytes, and raises nothing but the errors that its reader documents.

What can be read is held to more: written and read again it is the same. An input's first byte chooses how the rest is
read, so that what is guarded by a length, a checksum or another format is reached too.
"""

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, get_args

import numpy as np

from hansa.arrays import Arrays
from hansa.compat.fedn import formats
from hansa.compression.mask import drawn
from hansa.errors import AppError, InputError, UpdateRejectedError, WireError
from hansa.messages import Contribution, Packing, Update
from hansa.packages import archive, package
from hansa.packages.archive import File
from hansa.packages.manifest import MANIFEST, Manifest, Packed
from hansa.packages.requirements import check_lock
from hansa.packages.signature import Signature
from hansa.wire import chunks, codec, framing, packing
from hansa.wire.frames import FromNode, ToNode

__all__ = ["CRASHES", "TARGETS", "Target"]

CRASHES: Final = Path(__file__).parent / "crashes"
"""A folder for each target, with every input that has found something, by what it found."""

_GOLDEN: Final = Path(__file__).parents[1] / "wire" / "golden"
_BETWEEN: Final = b"\xff"
"""Between the parts of an input; no UTF-8 text has it."""

TEMPLATE: Final = Arrays({"w": np.zeros((2, 3), np.float32), "n": np.zeros((), np.int64)})

_ROW: Final = np.arange(200, dtype=np.float32) % 15 - 7

PACKED: Final = Update(
    {
        "four": _ROW,
        "eight": np.where(_ROW == 0, np.float32(1), np.float32(0)),
        "drawn": np.where(drawn(b"\0" * 32, "drawn", 200, 2**30), _ROW, np.float32(0)),
    },
    1,
    packing={
        "four": Packing(bits=4, steps=np.ones(1, np.float32)),
        "eight": Packing(sparse=True, bits=8, steps=np.ones(1, np.float32)),
        "drawn": Packing(seed=b"\0" * 32, share=2**30),
    },
)


@dataclass(frozen=True, slots=True)
class Target:
    """One reader."""

    run: Callable[[bytes], None]
    """Reads an input; whatever it raises is a finding."""
    seeds: Callable[[], Iterator[bytes]]
    """Inputs to begin with."""
    words: tuple[bytes, ...]
    """What is worth putting into an input."""


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _codec(data: bytes) -> None:
    """Weights, as a model, as an update and as a sum. Odd: header, 0xff, tensors, of which the length is put before."""
    file = data[1:]
    if data[:1] and data[0] % 2:
        header, _, body = file.partition(_BETWEEN)
        file = len(header).to_bytes(8, "little") + header + body
    with suppress(UpdateRejectedError):
        codec.decode_partial(file, [Contribution("a", 1)], 1)
    with suppress(UpdateRejectedError):
        assert list(codec.decode(file, TEMPLATE)) == list(TEMPLATE)
    with suppress(UpdateRejectedError):
        unpacked = packing.unpack(file, packing.outline(PACKED.arrays))
        assert unpacked.nbytes <= max(len(file), PACKED.arrays.nbytes)
    try:
        arrays = codec.decode(file)
    except WireError:
        return
    assert arrays.nbytes <= len(file)
    written = b"".join(codec.encode(arrays))
    again = codec.decode(written)
    assert list(again) == list(arrays)
    assert b"".join(codec.encode(again)) == written


def _models() -> Iterator[bytes]:
    mixed = Arrays(
        {
            "half": np.array([np.nan, -0.0], np.float16),
            "flags": np.array([True, False]),
            "empty": np.zeros((0, 3), np.float32),
            "名": np.array(2**63, np.uint64),
        }
    )
    update = Arrays({"w": np.ones((2, 3), np.float32), "n": np.ones((), np.int64)})
    for header, *bodies in (*map(codec.encode, (mixed, update, Arrays({}))), packing.pack(PACKED)):
        yield b"\0" + header + b"".join(bodies)
        yield b"\1" + bytes(header[8:]) + _BETWEEN + b"".join(bodies)
    yield b'\1{"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}' + _BETWEEN + b"ab"


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _readers() -> Iterator[tuple[str, Callable[[bytes], Any], Callable[[Any], bytes]]]:
    yield "FromNode", framing.decode_from_node, framing.encode_from_node
    yield "ToNode", framing.decode_to_node, framing.encode_to_node
    for kind in get_args(framing._Call):
        yield kind.__name__, lambda data, kind=kind: framing.decode_call(kind, data), framing.encode_call
    yield "Chunk", chunks.unframe, lambda chunk: chunks.frame(*chunk)


READERS: Final = tuple(_readers())
"""(message, how it is read, how it is written); an input's first byte chooses one."""


def _frames(data: bytes) -> None:
    """A frame, a call or a chunk."""
    name, read, write = READERS[(data[0] if data else 0) % len(READERS)]
    try:
        value = read(data[1:])
    except WireError:
        return
    written = write(value)
    assert write(read(written)) == written, f"{name} is another after it has travelled"


def _captures() -> Iterator[bytes]:
    """The captures of the golden tests, each for the reader of its name."""
    numbers = {name: number for number, (name, _, _) in enumerate(READERS)}
    upwards, downwards = ({kind.__name__ for kind in get_args(union)} for union in (FromNode, ToNode))
    for path in sorted(_GOLDEN.glob("*.bin")):
        words = path.stem.split("_")
        names = ("".join(map(str.capitalize, words[:count])) for count in range(len(words), 0, -1))
        for name in names:
            envelope = "FromNode" if name in upwards else "ToNode" if name in downwards else name
            envelope = {"down": "ToNode", "call": name}.get(words[-1], envelope)  # of what travels in several ways
            if envelope in numbers:
                yield bytes([numbers[envelope]]) + path.read_bytes()
                break


# ── models of FEDn's clients ─────────────────────────────────────────────────────────────────────────────────────────

HELPERS: Final = tuple(map(formats.helper_of, ("numpyhelper", "binaryhelper", "androidhelper")))
"""An input's first byte chooses one."""


def _helpers(data: bytes) -> None:
    """A model, by itself and against one that it was trained from."""
    helper = HELPERS[(data[0] if data else 0) % len(HELPERS)]
    with suppress(InputError):
        trained = formats.read_update(io.BytesIO(data[1:]), helper, TEMPLATE)
        assert [(each.shape, each.dtype) for each in trained.values()] == [
            (each.shape, each.dtype) for each in TEMPLATE.values()
        ]
    with suppress(InputError):
        assert formats.read_model(io.BytesIO(data[1:]), helper, 1 << 20).nbytes <= (1 << 20) + (1 << 17)


def _helper_files() -> Iterator[bytes]:
    for number, helper in enumerate(HELPERS):
        file = io.BytesIO()
        formats.write_model(TEMPLATE, helper, file)
        yield bytes([number]) + file.getvalue()
    deflated = io.BytesIO()
    np.savez_compressed(deflated, **{"0": np.ones((2, 3), ">f8"), "1": np.ones((), np.int32)})
    yield b"\0" + deflated.getvalue()


# ── packages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _archive(data: bytes) -> None:
    """An archive. Odd: name, 0xff, rights and content, 0xff, … of files that are packed before, so that sums agree."""
    packed = data[1:]
    if data[:1] and data[0] % 2:
        packed = _packed(packed)
    with suppress(AppError):
        package.read(packed)
    try:
        files = archive.read(packed)
    except AppError:
        return
    assert sum(len(file.content) for file in files.values()) <= archive.MAX_BYTES
    for name in files:
        path = PurePosixPath(name)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert str(path) == name
    assert len({name.casefold() for name in files}) == len(files)
    assert archive.read(archive.write(files)) == files


def _packed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    parts = data.split(_BETWEEN)
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in zip(parts[::2], parts[1::2], strict=False):
            entry = zipfile.ZipInfo("placeholder")
            entry.filename = entry.orig_filename = name.decode(errors="replace")
            entry.external_attr = int.from_bytes(content[:4], "little")
            opened._didModify = True
            opened._writecheck = lambda _entry: None  # type: ignore[method-assign]  # a name twice is welcome here
            opened.writestr(entry, content[4:])
    return buffer.getvalue()


APP: Final = b"import hansa\n\napp = hansa.App()\n"


def _manifest_of(files: Mapping[str, File]) -> Manifest:
    return Manifest("app", "app.py", {name: Packed.of(file) for name, file in files.items()})


def _archives() -> Iterator[bytes]:
    files = {"app.py": File(APP), "a/b.sh": File(b"x" * 50, executable=True)}
    manifest = _manifest_of(files).encode()
    yield b"\0" + archive.write({MANIFEST: File(manifest), **files})
    yield b"\0" + archive.write({})
    rights = (0o100644 << 16).to_bytes(4, "little")
    yield b"\1" + _BETWEEN.join((b"app.py", rights + APP, b"a/b", rights, b"../c", rights, b"A/B", rights))


# ── what is written in a package ─────────────────────────────────────────────────────────────────────────────────────


def _manifest(data: bytes) -> None:
    """A manifest, a signature or a lock file."""
    raw = data[1:]
    with suppress(AppError):
        match (data[0] if data else 0) % 3:
            case 0:
                read = Manifest.decode(raw)
                assert read.encode() == raw
                assert Manifest.decode(read.encode()) == read
                with suppress(AppError):
                    read.check({name: File(b"") for name in read.files})
            case 1:
                signature = Signature.decode(raw)
                assert signature.encode() == raw
                with suppress(AppError):
                    signature.verify("0" * 64)
            case _:
                for requirement in check_lock(raw, "requirements.lock"):
                    assert "==" in requirement
                    assert "--" not in requirement
                    assert "\n" not in requirement


def _manifests() -> Iterator[bytes]:
    files = {"app.py": File(APP), "requirements.lock": File(b"")}
    yield b"\0" + _manifest_of({"app.py": File(b"")}).encode()
    yield b"\0" + Manifest("a", "app.py", _manifest_of(files).files, "requirements.lock").encode()
    yield b"\1" + Signature("ed25519:" + "00" * 32, "00" * 64).encode()
    line = b"numpy[a]==2.1 ; python_version < '3.13' \\\n    --hash=sha256:" + b"0" * 64 + b"  # why\n"
    yield b"\2" + b"# made\n" + line * 2


TARGETS: Final[Mapping[str, Target]] = {
    "helpers": Target(
        _helpers, _helper_files, (b"0.npy", b"PK\1\2", b"PK\3\4", b"\x93NUMPY", b"'descr'", b"|O", b"<f4")
    ),
    "codec": Target(
        _codec,
        _models,
        (
            b'"dtype"',
            b'"shape"',
            b'"data_offsets"',
            b'"__metadata__"',
            b'"BOOL"',
            b'"F8_E4M3"',
            b"9223372036854775808",
            b":index",
            b":levels4",
        ),
    ),
    "frames": Target(
        _frames, _captures, (b"\x0a\xff\xff\xff\xff\x0f", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
    ),
    "archive": Target(
        _archive, _archives, (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"../", b"\xff")
    ),
    "manifest": Target(
        _manifest,
        _manifests,
        (
            b'"entry"',
            b'"executable"',
            b'"files"',
            b'"requirements"',
            b"null",
            b"--hash=sha256:",
            b"==",
            b" ; ",
            b"\\\n",
        ),
    ),
}
