"""What code that a session brought can see, reach and use up, with each tool that this machine has."""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import psutil
import pytest
from rig import blob_of

import hansa
from hansa.arrays import Arrays
from hansa.errors import ConfigError, CorruptionError, UserCodeError
from hansa.messages import ClientInfo, Kind, RoundRules, RunSpec
from hansa.network.client.code import Code
from hansa.network.client.confinement import NO_CONFINEMENT, Confinement, Tool, confine
from hansa.network.client.limits import Limits
from hansa.network.client.workshop import Workshop
from hansa.packages.package import build, read
from hansa.wire.frames import OpenRound, RoundKey

SOURCE = Path(hansa.__file__).parent
"""Which the code that runs must be able to read."""

MODEL = Arrays({"w": np.zeros(4, np.float32)})
HEAD = """
import os, signal, socket, subprocess, sys, threading, time
import numpy as np
import hansa

app = hansa.App()

@app.evaluate
def evaluate(model, task):
    answer = look(task)
    return hansa.Metrics({"answer": float(answer if answer is not None else 0)}, 1)

"""


def tools(*wanted: Tool) -> list[Tool]:
    """Those of these that work here."""
    return [tool for tool in wanted if tool is Tool.NOTHING or confined(tool) is not None]


def confined(tool: Tool, **rules: object) -> Confinement | None:
    """These rules with this tool, where it works."""
    wanted = Confinement(network=False)
    only = {Tool.BWRAP: "bwrap", Tool.UNSHARE: "unshare"}
    if tool is not Tool.NOTHING:
        if shutil.which(only[tool]) is None:
            return None
        probe = Confinement(tool, network=False).command([sys.executable, "-c", ""], writable=(), readable=())
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            return None
    return Confinement(**{"tool": tool, "network": wanted.network, **rules})  # type: ignore[arg-type]


ALL = tools(Tool.BWRAP, Tool.UNSHARE, Tool.NOTHING)
WALLED = tools(Tool.BWRAP, Tool.UNSHARE)
FILES = tools(Tool.BWRAP)


class Bench:
    def __init__(self, workshop: Workshop, lines: list[str]) -> None:
        self.workshop, self.lines = workshop, lines

    async def look(self) -> float:
        key = RoundKey("run", 1, Kind.EVALUATE)
        task = OpenRound(key, RunSpec(name="run", rules=RoundRules(lease=30)), blob_of(MODEL), ("ward",))
        async with asyncio.timeout(60):
            answer = await self.workshop.work(task, lambda _frame: None)
        return answer.metrics["answer"]  # type: ignore[union-attr]

    async def failure(self) -> str:
        with pytest.raises(UserCodeError) as caught:
            await self.look()
        return str(caught.value)


Make: TypeAlias = Callable[[str, Confinement], AbstractAsyncContextManager[Bench]]


@pytest.fixture
def bench(tmp_path: Path) -> Make:
    """A worker for a package with the function `look(task)`."""

    @asynccontextmanager
    async def made(body: str, confinement: Confinement) -> AsyncIterator[Bench]:
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "app.py").write_text(HEAD + "def look(task):\n" + textwrap.indent(body, "    ") + "\n")
        work = tmp_path / "work"
        (work / "objects").mkdir(parents=True)
        (work / "outbox").mkdir()
        (work / "outbox" / "offer").write_text("what another session learned")
        archive = work / "app.hansa"
        archive.write_bytes(build(tmp_path / "source"))
        code, lines = Code(archive, read(archive.read_bytes()).id), list[str]()
        workshop = Workshop(code, ClientInfo("ward"), work / "objects", lines.append, confinement)
        try:
            yield Bench(workshop, lines)
        finally:
            await workshop.aclose()
            assert not list(work.glob("scratch-*"))

    return made


# ── what it can see ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tool", ALL)
async def test_its_environment_holds_what_programs_need_and_no_secret(
    tool: Tool, bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HANSA_TOKEN", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "WARD_DATA", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    rules = confined(tool, variables=("WARD_DATA",))
    assert rules is not None
    async with bench("print(*sorted(os.environ)); print(os.environ['HOME'])", rules) as made:
        await made.look()
    names = set(made.lines[0].split())
    assert {"PATH", "HOME", "WARD_DATA", "OMP_NUM_THREADS"} <= names
    assert not {"HANSA_TOKEN", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK"} & names
    assert made.lines[1].endswith("/home")
    assert "scratch-" in made.lines[1]


@pytest.mark.parametrize("tool", ALL)
async def test_it_inherits_no_open_file(tool: Tool, bench: Make, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open sesame")
    rules = confined(tool)
    assert rules is not None
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        body = "print(*(os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if n.isdigit()\n"
        body += (
            "        and os.path.exists(f'/proc/self/fd/{n}') or int(n) < 20 and os.path.islink(f'/proc/self/fd/{n}')))"
        )
        async with bench(body, rules) as made:
            await made.look()
    assert "secret" not in made.lines[0]
    assert made.lines[0].count("socket:") == 1


@pytest.mark.parametrize("tool", FILES)
async def test_it_sees_nothing_of_the_node_and_writes_to_its_own_folders_alone(
    tool: Tool, bench: Make, tmp_path: Path
) -> None:
    token, outside = tmp_path / "token", tmp_path / "outside"
    token.write_text("open sesame")
    rules = confined(tool, hidden=(tmp_path / "work", token), shown=(tmp_path,))
    assert rules is not None
    body = f"""
    def told(act):
        try:
            return act()
        except OSError as error:
            return type(error).__name__
    print(told(lambda: open({str(token)!r}).read()))
    print(told(lambda: os.listdir({str(tmp_path / "work" / "outbox")!r})))
    print(sorted(name[:7] for name in os.listdir({str(tmp_path / "work")!r})))
    print(told(lambda: open({str(outside)!r}, "w")))
    print(told(lambda: open({str(tmp_path / "source" / "app.py")!r}).read(8).strip() + " "))
    print(told(lambda: open(os.environ["HOME"] + "/mine", "w").write("x")))
    print(told(lambda: open(__file__, "a").write("x")))
    work = {str(tmp_path / "work")!r}
    print(told(lambda: open(work + "/objects/model").read()))
    print(told(lambda: open(work + "/objects/model", "a")))
    print(told(lambda: os.unlink(work + "/objects/model")))
    print(len(os.listdir(work + "/memory")))
    """
    async with bench(textwrap.dedent(body), rules) as made:
        (tmp_path / "work" / "objects" / "model").write_text("of another session")
        (tmp_path / "work" / "memory" / "another").mkdir(parents=True)
        await made.look()
    assert made.lines == [
        "PermissionError",
        "FileNotFoundError",
        "['memory', 'objects', 'scratch']",
        "OSError",
        "import ",
        "1",
        "1",
        "of another session",
        "OSError",
        "OSError",
        "1",
    ]
    assert not outside.exists()


@pytest.mark.parametrize("tool", FILES)
async def test_where_the_owner_names_what_it_may_read_it_reads_nothing_else(
    tool: Tool, bench: Make, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ward.csv").write_text("1")
    (tmp_path / "private").write_text("no")
    rules = confined(tool, readable=(tmp_path / "data",), hidden=(tmp_path / "work",))
    assert rules is not None
    body = f"print(os.path.exists({str(tmp_path / 'private')!r}), os.listdir({str(tmp_path / 'data')!r}))\n"
    body += "print(os.path.exists('/run/docker.sock'), sorted(os.listdir('/tmp')))"
    shared = {tmp_path.parts[2], *(part.parts[2] for part in (SOURCE, Path(sys.prefix)) if part.parts[1] == "tmp")}
    async with bench(body, rules) as made:
        await made.look()
    assert made.lines == ["False ['ward.csv']", f"False {sorted(shared)}"]


@pytest.mark.parametrize("tool", ALL)
async def test_a_package_that_was_changed_on_the_disk_is_not_run(tool: Tool, bench: Make, tmp_path: Path) -> None:
    rules = confined(tool)
    assert rules is not None
    async with bench("return 1", rules) as made:
        (tmp_path / "source" / "app.py").write_text("import hansa\n\napp = hansa.App()\n")
        (tmp_path / "work" / "app.hansa").write_bytes(build(tmp_path / "source"))
        with pytest.raises(CorruptionError, match="something else on this machine has written to it"):
            await made.look()


@pytest.mark.parametrize("tool", ALL)
async def test_what_it_writes_beside_its_code_is_gone_with_its_process(tool: Tool, bench: Make) -> None:
    rules = confined(tool)
    assert rules is not None
    body = "mark = __file__ + '.mark'\nseen = os.path.exists(mark)\nopen(mark, 'w').close()\n"
    body += (
        "if task.config.get('never') is None and not seen: threading.Timer(0.2, os._exit, (0,)).start()\nreturn seen"
    )
    async with bench(body, rules) as made:
        assert await made.look() == 0
        await made.workshop._process.wait()  # type: ignore[union-attr]
        assert await made.look() == 0


# ── what it can reach ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tool", ALL)
async def test_it_reaches_no_other_machine_where_that_can_be_enforced(tool: Tool, bench: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        body = f"return socket.socket().connect_ex(('127.0.0.1', {server.getsockname()[1]})) == 0"
        rules = confined(tool)
        assert rules is not None
        async with bench(body, rules) as made:
            assert bool(await made.look()) is ("network" not in rules.enforced)


@pytest.mark.parametrize("tool", WALLED)
async def test_it_reaches_them_where_the_site_allows_that(tool: Tool, bench: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        body = f"return socket.socket().connect_ex(('127.0.0.1', {server.getsockname()[1]})) == 0"
        rules = confined(tool, network=True)
        assert rules is not None
        async with bench(body, rules) as made:
            assert await made.look() == 1
        assert "network" not in (*rules.enforced, *rules.missing)


@pytest.mark.parametrize("tool", WALLED)
async def test_it_sees_no_other_process_and_nothing_that_it_starts_outlives_it(tool: Tool, bench: Make) -> None:
    rules = confined(tool)
    assert rules is not None
    mark = f"5{os.getpid()}"
    body = f"""
    subprocess.Popen(["sleep", "{mark}"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "{mark}"])
        os._exit(0)
    return sum(name.isdigit() for name in os.listdir("/proc"))
    """
    async with bench(textwrap.dedent(body), rules) as made:
        assert await made.look() < 8
        seen_to_sleep(mark, True)  # a process that becomes another has no command line for a moment
    seen_to_sleep(mark, False)


def seen_to_sleep(mark: str, yes: bool) -> None:  # noqa: FBT001 - which of the two
    deadline = time.monotonic() + 20
    while bool(sleeping(mark)) != yes:
        assert time.monotonic() < deadline


def sleeping(mark: str) -> list[psutil.Process]:
    return [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == ["sleep", mark]]


AGENT = """
import asyncio, sys
from pathlib import Path
import numpy as np
from hansa.messages import ClientInfo
from hansa.network.client.code import Code
from hansa.network.client.confinement import Confinement, Tool
from hansa.network.client.workshop import Workshop

async def main():
    archive, package, tool = sys.argv[1:]
    code, objects = Code(Path(archive), package), Path(archive).parent / "objects"
    workshop = Workshop(code, ClientInfo("ward"), objects, print, Confinement(Tool(tool), network=False))
    await workshop.start()
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.parametrize("tool", ALL)
def test_it_ends_with_its_agent_though_that_is_killed_and_it_is_busy(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("print('here', flush=True)\nwhile True: pass\n")
    (tmp_path / "objects").mkdir()
    archive = tmp_path / "app.hansa"
    archive.write_bytes(build(tmp_path / "app.py"))
    arguments = [sys.executable, "-u", "-c", AGENT, str(archive), read(archive.read_bytes()).id, tool.value]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as agent:
        try:
            assert agent.stdout is not None
            assert agent.stdout.readline() == "here\n"
            family = psutil.Process(agent.pid).children(recursive=True)
        finally:
            agent.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert family
    assert alive == []


# ── what it can use up ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tool", tools(Tool.BWRAP, Tool.NOTHING))  # which has no part in it
@pytest.mark.parametrize(
    ("limits", "body", "said"),
    [
        (Limits(memory=1 << 31), "np.ones(1 << 30)", "Unable to allocate|MemoryError"),
        (Limits(file_size=1 << 20), "open(os.environ['HOME'] + '/a', 'wb').write(bytes(1 << 21))", "File too large"),
        (Limits(open_files=32), "held = [os.dup(0) for _ in range(64)]", "Too many open files"),
        (Limits(cpu=1.0), "while True: pass", "CPU seconds, and a task may use 1 here: it was ended"),
        (Limits(cpu=1.0), "subprocess.run([sys.executable, '-c', 'while True: pass'])", "a task may use 1 here"),
        (
            Limits(disk=1 << 20),
            "while True: open(f'{os.environ[\"HOME\"]}/{time.time()}', 'wb').write(bytes(1 << 18)); time.sleep(0.05)",
            "a task may hold 1,048,576 here: it was ended",
        ),
        (
            Limits(disk=1 << 20),
            "while True: open(f'{sys.argv[6]}/{time.time()}', 'wb').write(bytes(1 << 18)); time.sleep(0.05)",
            "a task may hold 1,048,576 here: it was ended",
        ),
        (Limits(wall=1.0), "time.sleep(60)", "a task may take 1 here: it was ended"),
    ],
)
async def test_what_goes_beyond_a_limit_fails_and_the_session_is_told_which(
    tool: Tool, limits: Limits, body: str, said: str, bench: Make
) -> None:
    rules = confined(tool, limits=limits)
    assert rules is not None
    async with bench(body, rules) as made:
        assert re.search(said, await made.failure())


@pytest.mark.parametrize("tool", ALL)
async def test_no_limit_can_be_raised_again_and_no_core_is_left(tool: Tool, bench: Make) -> None:
    rules = confined(tool, limits=Limits(open_files=64, processes=500))
    assert rules is not None
    body = "import resource as r\nprint(*map(r.getrlimit, (r.RLIMIT_NOFILE, r.RLIMIT_CORE, r.RLIMIT_NPROC)))"
    async with bench(body, rules) as made:
        await made.look()
    assert made.lines == ["(64, 64) (0, 0) (500, 500)"]


@pytest.mark.parametrize("tool", ALL)
@pytest.mark.parametrize(
    ("body", "said"),
    [("os._exit(3)", "(exit status 3)"), ("os.kill(os.getpid(), signal.SIGSEGV)", "(killed by SIGSEGV)")],
)
async def test_how_it_ended_is_told_as_of_any_process(tool: Tool, body: str, said: str, bench: Make) -> None:
    if tool is Tool.UNSHARE and "kill" in body:
        pytest.skip("the first process of a namespace takes no signal that it has not asked for")
    rules = confined(tool)
    assert rules is not None
    async with bench(body, rules) as made:
        assert said in await made.failure()


@pytest.mark.parametrize("flaw", [{"cpu": 0.0}, {"memory": -1}, {"wall": float("nan")}])
def test_what_is_no_limit_is_refused(flaw: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be a number above 0"):
        Limits(**flaw)  # type: ignore[arg-type]


# ── what is found out ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_best_tool_that_works_is_taken_and_what_is_missing_is_said() -> None:
    found = confine("where-possible", Confinement(network=False))
    assert found.tool is ALL[0]
    assert set(found.enforced) | set(found.missing) == {"environment", "limits", "files", "processes", "network"}


def test_without_a_tool_code_runs_unless_confinement_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = confine("where-possible", Confinement(network=False))
    assert found.tool is Tool.NOTHING
    assert found.missing == ("files", "processes", "network")
    assert "bwrap is not installed" in found.why_not
    with pytest.raises(ConfigError, match=r"files, processes, network cannot be .*: install bubblewrap"):
        confine("required", Confinement(network=False))


def test_a_tool_that_does_not_work_here_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'No permissions to create a new namespace' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + ":/bin")
    found = confine("where-possible", NO_CONFINEMENT)
    assert found.tool is not Tool.BWRAP
    assert "bwrap does not work here: No permissions to create a new namespace" in found.why_not


def test_confinement_that_is_off_is_off() -> None:
    assert confine("off", Confinement(network=False)).tool is Tool.NOTHING


def test_a_hidden_process_cannot_be_read_by_others_of_its_user() -> None:
    code = "import ctypes; from hansa.network.client.confinement import hide_this_process as hide; hide()\n"
    code += "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
