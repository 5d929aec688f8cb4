"""`hansa package`: user code that sessions ship to clients: built, signed, looked into, and pushed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hansa.cli.options import AppPath, ConnectionOptions, Json, Limit, expand
from hansa.cli.output import print_json, print_table, relative, say, size, when

if TYPE_CHECKING:
    from hansa.packages.package import Package

__all__ = ["commands", "print_package"]

commands = typer.Typer(no_args_is_help=True, help="Packages: user code that sessions ship to clients.")

PackageFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A package, as `hansa package create` wrote it.", show_default=False)
]
PackageName = Annotated[str | None, typer.Option("--name", help="Name of the package; by default the app's.")]


@commands.command("list")
@expand
def list_packages(server: ConnectionOptions, *, limit: Limit = 20, as_json: Json = False) -> None:
    """List packages, the newest first."""
    with server.connect() as api:
        page = api.packages.list(limit=limit, sort="-created_at")
    columns = {
        "package": lambda p: p.id[:12],
        "name": lambda p: p.name,
        "size": lambda p: size(p.size),
        "created": lambda p: when(p.created_at),
    }
    print_table(page.items, columns, as_json=as_json, nothing="No package yet: `hansa package push APP`.")


@commands.command()
@expand
def key(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="New file; by default that of HANSA_PACKAGE_KEY.", show_default=False),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Make a key that signs packages, in a file that you alone can read, and print its public half."""
    from hansa.packages.signature import new_key

    path = _key_file(file)
    public = new_key(path)
    if as_json:
        print_json({"file": path, "public_key": public})
        return
    say(f"{public}\nThe private key is in {path}: keep it. Data owners name the public one in `[code] signers`.")


@commands.command()
@expand
def create(
    app: AppPath,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default NAME.hansa, here.")
    ] = None,
    name: PackageName = None,
    as_json: Json = False,
) -> None:
    """Pack an app, with the digest of every file; the same files give the same package.

    A `requirements.lock` beside the app is what clients install for it: exact versions with hashes.
    """
    from hansa.packages.package import SUFFIX
    from hansa.packages.package import build as packed
    from hansa.packages.package import read as opened

    data = packed(app, name=name)
    package = opened(data)
    file = output if output is not None else Path(f"{package.manifest.name}{SUFFIX}")
    _replace(file, data)
    _say_written(file, package, as_json=as_json)


@commands.command()
@expand
def sign(
    file: PackageFile,
    *,
    with_key: Annotated[
        Path | None, typer.Option("--key", help="Private key; by default that of HANSA_PACKAGE_KEY.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign a package, in its file, so that data owners can tell whose it is; an earlier signature gives way."""
    from hansa.packages.package import read as opened
    from hansa.packages.package import signed
    from hansa.packages.signature import read_key

    data = signed(_bytes(file), read_key(_key_file(with_key)))
    _replace(file, data)
    _say_written(file, opened(data), as_json=as_json)


@commands.command()
@expand
def inspect(file: PackageFile, *, as_json: Json = False) -> None:
    """Show what a package holds, who has signed it, and what would run. Nothing of it is run."""
    from hansa.packages.package import read as opened

    print_package(opened(_bytes(file)).described(), as_json=as_json)


@commands.command()
@expand
def push(app: AppPath, server: ConnectionOptions, *, name: PackageName = None, as_json: Json = False) -> None:
    """Upload a package's file; or pack an app and upload it, signed if you have a key."""
    with server.connect() as api:
        record = api.packages.upload(app, name)
    if as_json:
        print_json(record)
    else:
        say(f"package {record.id} ({record.name}, {size(record.size)})")


@commands.command()
@expand
def delete(
    package: Annotated[str, typer.Argument(help="Its id, or the beginning of it.", show_default=False)],
    server: ConnectionOptions,
    *,
    as_json: Json = False,
) -> None:
    """Delete a package that no session or prediction needs."""
    with server.connect() as api:
        gone = api.packages.delete(package)
    if as_json:
        print_json(gone)
    else:
        say(f"Package {gone.id[:12]} ({gone.name}, {size(gone.size)}) is deleted.")


def print_package(description: dict[str, Any], *, as_json: bool) -> None:
    """Print what `Package.described` says."""
    if as_json:
        print_json(description)
        return
    rows = [("package", description["name"]), ("digest", description["digest"]), ("id", description["id"])]
    rows.append(("signed by", description["signer"] or "nobody"))
    rows += [("runs", line) for line in description["runs"]]
    rows += [("installs", line) for line in description["requirements"] or ["nothing"]]
    rows += [
        ("file", f"{file['blake3'][:16]}  {size(file['size']):>7}  {name}{'*' if file['executable'] else ''}")
        for name, file in description["files"].items()
    ]
    before = ""
    for label, text in rows:
        say(f"{label if label != before else '':<9}  {_printable(text)}")
        before = label


def _printable(text: str) -> str:
    """What a package says of itself, without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _key_file(given: Path | None) -> Path:
    from hansa.settings import Settings

    return (given if given is not None else Settings().package_key).expanduser()


def _bytes(file: Path) -> bytes:
    from hansa.errors import InputError

    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"the package {file} cannot be read: {error.strerror}") from error


def _replace(file: Path, data: bytes) -> None:
    from hansa.store.disk import explained

    with explained("write the package", file):
        unfinished = file.with_name(f".{file.name}.unfinished")
        unfinished.write_bytes(data)
        unfinished.replace(file)


def _say_written(file: Path, package: "Package", *, as_json: bool) -> None:
    signer = package.signer()
    if as_json:
        print_json({"file": file, "digest": package.digest, "id": package.id, "signer": signer})
        return
    whose = f"signed by {signer}" if signer is not None else "not signed: `hansa package sign`"
    say(f"{relative(file)}: {package.manifest.name} {package.digest} ({whose})")
