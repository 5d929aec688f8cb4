#!/usr/bin/env python3
"""Generate Python from proto/: of hansa.v1 and, for their clients, of FEDn; with --check, say whether it is up to date.

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
TOOLS = "1.76.0"
PACKAGES = {"hansa/v1": "hansa.wire", "fedn": "hansa.compat.fedn"}
"""Folder of proto/ → the package that alone imports what is made of it."""


def target(folder: str) -> Path:
    """Where the modules of a folder of proto/ belong."""
    return ROOT.joinpath("src", *PACKAGES[folder].split("."), "_generated")


def generate(folder: str) -> Mapping[str, str]:
    """File name → text of every generated module of a folder of proto/."""
    if version("grpcio-tools") != TOOLS:
        sys.exit(f"grpcio-tools is {version('grpcio-tools')}, the committed code is of {TOOLS}: install that version")
    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto" / folder).glob("*.proto"))
    package = PACKAGES[folder]
    with tempfile.TemporaryDirectory() as made_in:
        includes = [f"-I{ROOT / 'proto'}", f"-I{files('grpc_tools') / '_proto'}"]
        if protoc.main(["protoc", *includes, f"--python_out={made_in}", *protos]) != 0:
            sys.exit("protoc failed; its message is above")
        made = {path.name: _as_package(path.read_text()) for path in (Path(made_in) / folder).iterdir()}
    init = f'"""Made by proto/generate.py from proto/{folder}; do not edit. Only {package} imports it."""\n'
    return {"__init__.py": init, **made}


def drift(folder: str, made: Mapping[str, str]) -> list[str]:
    """Names of the files that differ from what would be generated, are missing or do not belong."""
    there = {path.name: path.read_text() for path in target(folder).glob("*.py")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def main() -> None:
    """Write, or check."""
    for folder in PACKAGES:
        made = generate(folder)
        stale = drift(folder, made)
        if "--check" in sys.argv[1:]:
            if stale:
                sys.exit(f"{target(folder)} is stale ({', '.join(stale)}): run python proto/generate.py")
            continue
        target(folder).mkdir(exist_ok=True)
        for name in stale:
            (target(folder) / name).unlink(missing_ok=True)
            if name in made:
                (target(folder) / name).write_text(made[name])


def _as_package(text: str) -> str:
    return "# mypy: ignore-errors\n" + text.replace("from hansa.v1 import ", "from hansa.wire._generated import ")


if __name__ == "__main__":
    main()
