"""A package's lock file becomes an environment: with exactly what it names, once, and never half built."""

import asyncio
import base64
import hashlib
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from rig import blob_of

from hansa.arrays import Arrays
from hansa.errors import UserCodeError
from hansa.messages import ClientInfo, Kind, RunSpec
from hansa.network.client import environments
from hansa.network.client.environments import environment_with, python_of
from hansa.network.client.library import Library
from hansa.network.client.workshop import Workshop
from hansa.packages.package import build, read
from hansa.wire.frames import Blob, OpenRound, RoundKey

MODEL = Arrays({"w": np.zeros(4, np.float32)})
APP = """
import hansa
import hansatic

app = hansa.App()

@app.evaluate
def evaluate(model, task):
    return hansa.Metrics({"answer": hansatic.ANSWER}, 1)
"""


def wheel(folder: Path, version: str = "1.0", source: str = "ANSWER = 42\n", *, needs: str = "") -> str:
    """A tiny wheel in this folder; returns its line of a lock file."""
    folder.mkdir(exist_ok=True)
    about = f"hansatic-{version}.dist-info"
    files = {
        "hansatic.py": source,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: hansatic\nVersion: {version}\n{needs}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    listed = [f"{name},sha256={_digest(text)},{len(text)}\n" for name, text in files.items()]
    files[f"{about}/RECORD"] = "".join(listed) + f"{about}/RECORD,,\n"
    path = folder / f"hansatic-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return f"hansatic=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def printed(environment: Path, code: str) -> str:
    done = subprocess.run([python_of(environment), "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this owner's pip finds packages, and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


def test_an_environment_has_what_the_lock_names_and_hansa_behind_it(tmp_path: Path, wheels: Path) -> None:
    made = environment_with(wheel(wheels).encode(), tmp_path / "environments")
    assert printed(made, "import hansatic, hansa, numpy; print(hansatic.ANSWER)") == "42"
    assert str(made) in printed(made, "import hansatic; print(hansatic.__file__)")


def test_it_is_built_once_for_a_lock_and_anew_for_another(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = wheel(wheels, "1.0"), wheel(wheels, "2.0", "ANSWER = 43\n")
    first = environment_with(one.encode(), tmp_path / "environments")
    second = environment_with(two.encode(), tmp_path / "environments")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert environment_with(one.encode(), tmp_path / "environments") == first
    assert printed(second, "import hansatic; print(hansatic.ANSWER)") == "43"


def test_one_that_was_half_built_is_built_again(tmp_path: Path, wheels: Path) -> None:
    lock = wheel(wheels).encode()
    made = environment_with(lock, tmp_path / "environments")
    (made / environments._STAMP).unlink()
    next(made.rglob("hansatic.py")).write_text("half wri")
    assert environment_with(lock, tmp_path / "environments") == made
    assert printed(made, "import hansatic; print(hansatic.ANSWER)") == "42"


def test_the_environments_that_were_used_least_recently_go(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "_KEPT", 2)
    made = [environment_with(wheel(wheels, f"{n}.0").encode(), tmp_path / "environments") for n in (1, 2, 3)]
    assert [place.exists() for place in made] == [False, True, True]


def test_what_cannot_be_installed_as_the_lock_says_is_told_with_pips_reason(tmp_path: Path, wheels: Path) -> None:
    lock = wheel(wheels)
    incomplete = wheel(wheels, "3.0", needs="Requires-Dist: hansatic-more\n")
    for asked, said in (
        (lock.partition("sha256:")[0] + f"sha256:{'0' * 64}\n", "DO NOT MATCH THE HASHES"),
        (lock.replace("==1.0", "==9.9"), "No matching distribution found for hansatic==9.9"),
        (incomplete, "hansatic-more.*name every dependency"),
    ):
        with pytest.raises(UserCodeError, match=said):
            environment_with(asked.encode(), tmp_path / "environments")


def test_no_code_of_a_source_distribution_is_run_to_install_it(tmp_path: Path, wheels: Path) -> None:
    wheels.mkdir()
    (tmp_path / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with zipfile.ZipFile(wheels / "hansatic-1.0.zip", "w") as archive:
        archive.write(tmp_path / "setup.py", "hansatic-1.0/setup.py")
    digest = hashlib.sha256((wheels / "hansatic-1.0.zip").read_bytes()).hexdigest()
    with pytest.raises(UserCodeError, match="No matching distribution"):
        environment_with(f"hansatic==1.0 --hash=sha256:{digest}\n".encode(), tmp_path / "environments")
    assert not (tmp_path / "ran").exists()


async def test_a_package_runs_in_the_environment_of_its_lock_file(tmp_path: Path, wheels: Path) -> None:
    source, work = tmp_path / "source", tmp_path / "work"
    source.mkdir()
    (work / "objects").mkdir(parents=True)
    (source / "app.py").write_text(APP)
    (source / "requirements.lock").write_text(wheel(wheels))
    data = build(source)

    async def download(_blob: Blob, target: Path) -> Path:
        await asyncio.to_thread(target.write_bytes, data)
        return target

    library = Library(work, download)
    library.open()
    code = await library.find(Blob(read(data).id, len(data)))
    workshop = Workshop(code, ClientInfo("ward"), work / "objects", print)
    try:
        key = RoundKey("run", 1, Kind.EVALUATE)
        answer = await workshop.work(OpenRound(key, RunSpec(), blob_of(MODEL), ("ward",)), lambda _frame: None)
    finally:
        await workshop.aclose()
    assert answer.metrics == {"answer": 42.0}  # type: ignore[union-attr]
