"""`hansa package`: from a folder to a signed file that says what it is."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import json_lines
from typer.testing import Result

from hansa.packages import archive
from hansa.packages.archive import File
from hansa.packages.manifest import MANIFEST
from hansa.packages.package import read

Hansa = Callable[..., Result]
LOCK = f"six==1.16.0 --hash=sha256:{'0' * 64}\n"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "key.pem"


def test_a_package_is_built_signed_and_says_what_it_holds(hansa: Hansa, tiny: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    tiny.rename(tmp_path / "app" / "app.py")
    (tmp_path / "app" / "requirements.lock").write_text(LOCK)
    file = tmp_path / "ward.hansa"
    made = hansa("package", "key", key, "--json")
    public = json_lines(made.stdout)[0]["public_key"]
    built = hansa("package", "create", tmp_path / "app", "--name", "ward", "-o", file, "--json")
    signed = hansa("package", "sign", file, "--json", HANSA_PACKAGE_KEY=str(key))
    assert (made.exit_code, built.exit_code, signed.exit_code) == (0, 0, 0)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    told = json.loads(hansa("package", "inspect", file, "--json").stdout)
    assert told["name"] == "ward"
    assert told["signer"] == public == json_lines(signed.stdout)[0]["signer"]
    assert told["digest"] == json_lines(built.stdout)[0]["digest"] == read(file.read_bytes()).digest
    assert told["requirements"] == ["six==1.16.0"]
    assert sorted(told["files"]) == ["app.py", "requirements.lock"]
    shown = hansa("package", "inspect", file).stdout
    assert f"signed by  {public}\n" in shown
    assert "Python imports app.py" in shown
    assert "installs   six==1.16.0" in shown


def test_inspect_shows_the_commands_that_would_run_without_what_steers_a_terminal(hansa: Hansa, tmp_path: Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    train = '["./train", "{model_in}", "{model_out}", "{metrics_out}", "\\u001b[2J"]'
    (folder / "hansa.toml").write_text(f'model = "seed"\nbuild = "make all"\ntrain = {train}\n')
    (folder / "seed").write_text("x")
    file = tmp_path / "c.hansa"
    assert hansa("package", "create", folder, "-o", file).exit_code == 0
    shown = hansa("package", "inspect", file).stdout
    assert "runs       build: make all\n" in shown
    assert "\x1b" not in shown
    assert "\ufffd[2J" in shown


def test_a_package_that_was_changed_after_it_was_signed_is_shown_to_nobody(
    hansa: Hansa, tiny: Path, key: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.hansa"
    hansa("package", "key", key)
    hansa("package", "create", tiny, "-o", file)
    hansa("package", "sign", file, "--key", key)
    files = archive.read(file.read_bytes())
    files[MANIFEST] = File(files[MANIFEST].content.replace(b'"executable": false', b'"executable": true'))
    files["app.py"] = File(files["app.py"].content, executable=True)
    file.write_bytes(archive.write(files))
    refused = hansa("package", "inspect", file)
    assert refused.exit_code == 1
    assert "signature does not hold" in refused.output


def test_a_key_that_others_can_read_signs_nothing(hansa: Hansa, tiny: Path, key: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.hansa"
    hansa("package", "key", key)
    hansa("package", "create", tiny, "-o", file)
    key.chmod(0o644)
    refused = hansa("package", "sign", file, "--key", key)
    assert refused.exit_code == 1
    assert "others on this machine can read" in refused.output
    assert read(file.read_bytes()).signature is None
