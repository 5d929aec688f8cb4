"""`hansa backup`: what it says of a server's data, here of one that has only been started."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from hansa.network.controller.server import ControllerServer
from hansa.settings import GivenSettings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    async def once() -> None:
        await (await ControllerServer.open(GivenSettings(data=tmp_path / "data", grpc_port=0))).aclose()

    asyncio.run(once())
    return tmp_path / "data"


def test_a_back_up_is_made_verified_and_restored_by_a_command_each(
    hansa: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    safe, again = tmp_path / "safe", tmp_path / "again"
    done = hansa("backup", "create", safe, "--data", data)
    assert (done.exit_code, done.stderr) == (0, "")
    (name,) = (path.name for path in safe.iterdir() if path.name.startswith("20"))
    assert f"{safe / name} is whole" in done.stdout
    assert "with 1 object." in done.stdout
    second = json.loads(hansa("backup", "create", safe, "--keep", 1, "--json", HANSA_DATA=str(data)).stdout)
    assert (second["copied"], second["removed"]) == (0, [name])

    checked = hansa("backup", "verify", safe).stdout
    assert second["name"] in checked
    assert "Every byte is there: 1 object" in checked
    restored = hansa("backup", "restore", safe, "--data", again)
    assert f"Start it: hansa up --data {again}" in restored.stdout
    refused = hansa("backup", "restore", safe, "--data", again)
    assert refused.exit_code == 1
    assert "already" in refused.stderr
    assert json.loads(hansa("backup", "restore", safe, "--data", tmp_path / "b", "--json").stdout)["bytes"] > 0


def test_what_is_damaged_is_named_and_fails(hansa: Callable[..., Result], data: Path, tmp_path: Path) -> None:
    safe = tmp_path / "safe"
    hansa("backup", "create", safe, "--data", data)
    (path,) = (safe / "objects").glob("??/??/*")
    path.chmod(0o600)
    path.write_bytes(b"")
    told = hansa("backup", "verify", safe)
    assert told.exit_code == 1
    assert f"{path} is truncated: it has 0 bytes in place of" in told.stderr
    listed = hansa("backup", "verify", safe, "--json")
    assert listed.exit_code == 1
    assert len(json.loads(listed.stdout)["damages"]) == 1
    assert hansa("backup", "restore", safe, "--data", tmp_path / "again").exit_code == 1

    path.unlink()
    hansa("backup", "create", safe, "--data", data)  # copies it anew
    assert hansa("backup", "verify", safe).exit_code == 0
