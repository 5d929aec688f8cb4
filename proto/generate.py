#!/usr/bin/env python3
"""Generate src/hansa/wire/_generated from proto/; with --check, only say whether it is up to date.

Run it with grpcio-tools==1.76.0: a protobuf runtime refuses code that is newer than itself, and this version's code
runs on every protobuf from 6.31.1. The schema's path is hansa/v1, as its package and other languages want it; Python's
package is hansa.wire._generated, so the imports between generated modules are rewritten. No service stubs are
generated: `hansa.wire.channel` names the methods, because streams travel as raw bytes.
"""

import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "src" / "hansa" / "wire" / "_generated"
TOOLS = "1.76.0"
INIT = '"""Made by proto/generate.py from proto/hansa/v1; do not edit. Only hansa.wire imports it."""\n'


def generate() -> Mapping[str, str]:
    """File name → text of every generated module."""
    if version("grpcio-tools") != TOOLS:
        sys.exit(f"grpcio-tools is {version('grpcio-tools')}, the committed code is of {TOOLS}: install that version")
    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto" / "hansa" / "v1").glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        includes = [f"-I{ROOT / 'proto'}", f"-I{files('grpc_tools') / '_proto'}"]
        if protoc.main(["protoc", *includes, f"--python_out={folder}", *protos]) != 0:
            sys.exit("protoc failed; its message is above")
        made = {path.name: _as_package(path.read_text()) for path in (Path(folder) / "hansa" / "v1").iterdir()}
    return {"__init__.py": INIT, **made}


def drift(made: Mapping[str, str]) -> list[str]:
    """Names of the files that differ from what would be generated, are missing or do not belong."""
    there = {path.name: path.read_text() for path in TARGET.glob("*.py")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def main() -> None:
    """Write, or check."""
    made = generate()
    if "--check" in sys.argv[1:]:
        if stale := drift(made):
            sys.exit(f"{TARGET.name} is stale ({', '.join(stale)}): run python proto/generate.py")
        return
    TARGET.mkdir(exist_ok=True)
    for name in drift(made):
        (TARGET / name).unlink(missing_ok=True)
        if name in made:
            (TARGET / name).write_text(made[name])


def _as_package(text: str) -> str:
    return "# mypy: ignore-errors\n" + text.replace("from hansa.v1 import ", "from hansa.wire._generated import ")


if __name__ == "__main__":
    main()
