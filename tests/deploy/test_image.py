"""The image of deploy/Containerfile, built by buildah upon a Debian of its own: a session in containers of it."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from commandline import TINY, written
from processes import line_with

ROOT = Path(__file__).parents[2]
OF_THIS_MACHINE = ("/etc/ssl/certs", "/etc/xdg/pip", "/etc/pip.conf")
"""What says where packages come from, and whom to believe."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not (shutil.which("buildah") and shutil.which("mmdebstrap")), reason="buildah and mmdebstrap are not installed"
    ),
]


def run(
    arguments: list[str], *, timeout: float, cwd: Path | None = None, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(arguments, timeout=timeout, cwd=cwd, env=env, capture_output=True, text=True, check=False)


class Buildah:
    """Images and containers in one folder, without a daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}  # noqa: TID251

    def command(self, *arguments: str) -> list[str]:
        return ["buildah", "--root", str(self.folder / "images"), "--runroot", str(self.folder / "run"), *arguments]

    def call(self, *arguments: str, cwd: Path | None = None) -> str:
        done = run(self.command(*arguments), timeout=900, cwd=cwd, env=self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def hansa(self, container: str, *arguments: str, **settings: str) -> list[str]:
        """The command of a container: what its image starts with, and these arguments."""
        environment = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
        return self.command("run", *environment, container, "--", "tini", "-s", "--", "hansa", *arguments)

    @contextmanager
    def going_on(self, container: str, *arguments: str, **settings: str) -> Iterator["subprocess.Popen[str]"]:
        """Until it is left: a signal would end buildah and leave what runs in the container."""
        command = self.hansa(container, *arguments, "--json", "--while-stdin", **settings)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=self.environment) as process:
            yield process


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Buildah:
    """With the image `hansa`, from what is to be committed."""
    folder = tmp_path_factory.mktemp("images")
    made = Buildah(folder)
    packages = "--include=python3,python3-venv,ca-certificates"
    done = run(["mmdebstrap", "--variant=minbase", packages, "bookworm", str(folder / "base.tar")], timeout=600)
    assert done.returncode == 0, done.stderr
    (folder / "Base").write_text("FROM scratch\nADD base.tar /\n", encoding="utf-8")
    made.call("bud", "--tag", "base", "--file", "Base", ".", cwd=folder)
    volumes = [f"--volume={place}:{place}:ro" for place in OF_THIS_MACHINE if Path(place).exists()]
    file = ("--file", "deploy/Containerfile")
    made.call("bud", "--tag", "hansa", "--build-arg", "BASE=localhost/base", *file, *volumes, ".", cwd=ROOT)
    return made


def test_server_and_client_are_containers_of_it(buildah: Buildah, tmp_path: Path) -> None:
    server, client = (buildah.call("from", "localhost/hansa") for _ in range(2))
    image = json.loads(buildah.call("inspect", "--type", "image", "localhost/hansa"))["OCIv1"]["config"]
    assert image["Entrypoint"] == ["tini", "--", "hansa"]
    assert image["Cmd"] == ["up"]
    assert image["User"] == "10001:10001"
    assert set(image["ExposedPorts"]) == {"8470/tcp", "8471/tcp"}
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(str(free.getsockname()[1]))
    settings = {"HANSA_PORT": ports[0], "HANSA_GRPC_PORT": ports[1], "HANSA_ADVERTISE": f"127.0.0.1:{ports[1]}"}
    with ExitStack() as started:
        up = started.enter_context(buildah.going_on(server, "up", **settings))
        facts = json.loads(line_with(up, "{"))
        who = run(buildah.command("run", server, "--", "id", "-u"), timeout=60, env=buildah.environment)
        assert who.stdout.strip() == "10001"
        token = run(buildah.hansa(server, "token", "create", "ward"), timeout=60, env=buildah.environment)
        joining = ("client", "start", "--join", facts["grpc_address"], "--ca", facts["ca"])
        ward = started.enter_context(buildah.going_on(client, *joining, HANSA_TOKEN=token.stdout.strip()))
        line_with(ward, '"connected"')
        app = written(tmp_path, TINY)
        buildah.call("copy", "--chown", "10001:10001", server, str(app), "/srv/app.py")
        session = buildah.hansa(server, "session", "start", "/srv/app.py", "--rounds", "2", "--json")
        done = run(session, timeout=120, env=buildah.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["state"] == "finished"
