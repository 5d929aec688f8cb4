"""What user code does to its process, and what the session is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import cradle
import numpy as np
import psutil
import pytest
from rig import blob_of

from hansa.arrays import Arrays
from hansa.errors import UserCodeError
from hansa.messages import ClientInfo, Contribution, Kind, RoundRules, RunSpec
from hansa.network.client.code import Code
from hansa.network.client.outbox import update_file
from hansa.network.client.workshop import Workshop
from hansa.settings import environment_for_user_code
from hansa.wire import codec, framing
from hansa.wire.frames import Evaluated, FromNode, Hello, LogLine, Offer, OpenRound, Progress, Role, RoundKey

MODEL = Arrays({"w": np.zeros(4, np.float32), "steps": np.zeros((), np.int64)})

HEAD = """
import os, signal, subprocess, sys, threading, time
import numpy as np
import hansa

app = hansa.App()
"""

GOOD = """
    return hansa.Update({"w": model["w"] + 1, "steps": model["steps"] + 1}, num_examples=2)
"""


HEAD_OF_A_FULL_DISK = """
import errno
refusals, sync = [errno.ENOSPC, errno.ENOSPC], os.fsync

def full(descriptor):
    if refusals:
        raise OSError(refusals.pop(), "for a test")
    sync(descriptor)

os.fsync = full
"""


def opened(kind: Kind = Kind.TRAIN, lease: float = 30.0) -> OpenRound:
    spec = RunSpec(name="run", rules=RoundRules(lease=lease))
    return OpenRound(RoundKey("run", 1, kind), spec, blob_of(MODEL), ("ward",))


class Bench:
    def __init__(self, workshop: Workshop, lines: list[str]) -> None:
        self.workshop, self.lines = workshop, lines
        self.frames: list[FromNode] = []

    async def work(self, task: OpenRound | None = None) -> Offer | Evaluated:
        async with asyncio.timeout(60):
            return await self.workshop.work(task or opened(), self.frames.append)

    async def failure(self, task: OpenRound | None = None) -> UserCodeError:
        with pytest.raises(UserCodeError) as caught:
            await self.work(task)
        return caught.value


Make: TypeAlias = Callable[[str], AbstractAsyncContextManager[Bench]]


@pytest.fixture
def bench(tmp_path: Path) -> Make:
    @asynccontextmanager
    async def made(code: str) -> AsyncIterator[Bench]:
        (tmp_path / "app.py").write_text(HEAD + code)
        (tmp_path / "objects").mkdir()
        lines: list[str] = []
        before = _children()  # of networks that other rooms' tests keep open
        workshop = Workshop(Code(tmp_path / "app.py"), ClientInfo("ward"), tmp_path / "objects", lines.append)
        try:
            yield Bench(workshop, lines)
        finally:
            await workshop.aclose()
            assert not _children() - before

    return made


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()} - cradle.processes()


def train(body: str) -> str:
    return "\n@app.train\ndef train(model, task):\n" + "".join(f"    {line}\n" for line in body.splitlines()) + GOOD


async def test_everything_that_is_printed_comes_line_by_line_and_a_huge_line_in_parts(bench: Make) -> None:
    code = train(
        'print("one\\ntwo")\nprint("three", file=sys.stderr)\nsys.stdout.write("x" * 1_000_000 + "\\nlast\\n")\n'
        'sys.stdout.buffer.write(b"\\xff\\n"); sys.stdout.flush()'
    )
    async with bench(code) as made:
        assert isinstance(await made.work(), Offer)
        await made.workshop.aclose()
    assert made.lines[:3] == ["one", "two", "three"]
    assert made.lines[-2:] == ["last", "\ufffd"]
    assert "".join(made.lines[3:-2]) == "x" * 1_000_000
    assert max(map(len, made.lines)) <= 1 << 17


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os._exit(3)", "the app ended its process (exit status 3)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the app ended its process (killed by SIGSEGV)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the app ended its process (killed by SIGKILL)"),
        ("sys.exit(4)", "the app called sys.exit(4) instead of returning a result"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise type('Odd', (Exception,), {'__reduce__': None})('odd')", "odd"),
        ("raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})", "<exception str() failed>"),
        ("os.closerange(3, 100); threading.Event().wait()", "closed its connection and went on"),
    ],
)
async def test_whatever_ends_a_task_is_told_and_the_next_task_is_done(body: str, said: str, bench: Make) -> None:
    async with bench(train(f"if not os.path.exists(__file__ + '.again'):\n    {body}")) as made:
        failure = await made.failure()
        assert said in str(failure)
        made.workshop._code.path.with_name("app.py.again").write_text("")
        assert isinstance(await made.work(), Offer)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return {'w': 1}", "train() returned a dict; return hansa.Update"),
        ("return None", "train() returned nothing; return hansa.Update"),
        ("return hansa.Update({'w': model['w'][:3], 'steps': model['steps']}, 1)", "'w'"),
        ("return hansa.Update({'w': model['w']}, 1)", "steps"),
        ("return hansa.Update({'w': model['w'], 'steps': np.float32(1.5)}, 1)", "'steps'"),
        ("return hansa.Update(dict(model), 'many')", "num_examples"),
        ("return hansa.Update(dict(model), 1, {f'm{i}': 1.0 for i in range(2000)})", "the result cannot be sent"),
    ],
)
async def test_a_wrong_result_is_told_with_what_is_wrong_in_it(body: str, said: str, bench: Make) -> None:
    async with bench(train(body)) as made:
        failure = await made.failure()
        assert said in str(failure)
        assert "hansa/network" not in failure.traceback
        pid = made.workshop._process.pid
        await made.failure()
        assert made.workshop._process.pid == pid  # the process is as good as before


async def test_an_app_that_cannot_be_imported_is_told_with_its_line(bench: Make) -> None:
    async with bench("\nimport a_module_that_nobody_has\n") as made:
        failure = await made.failure()
    assert "No module named 'a_module_that_nobody_has'" in str(failure)
    assert "import a_module_that_nobody_has" in failure.traceback
    assert "app.py" in failure.traceback
    assert "hansa/network" not in failure.traceback, "it begins with the app's own frame"


async def test_an_app_without_train_is_told_what_to_add(bench: Make) -> None:
    async with bench("") as made:
        assert "decorate one with @app.train" in str(await made.failure())


async def test_an_app_that_takes_longer_to_load_than_the_lease_is_not_ended(bench: Make) -> None:
    code = "\nend = time.process_time() + 1.6\nwhile time.process_time() < end: pass\n" + train("")
    async with bench(code) as made:
        assert isinstance(await made.work(opened(lease=1.0)), Offer)
    assert any(isinstance(frame, Progress) and frame.activity == "load" for frame in made.frames)


async def test_code_that_never_lets_another_thread_run_is_seen_to_work(bench: Make) -> None:
    """One long call into C holds the interpreter's lock: nothing inside the process can report meanwhile."""
    code = train("end = time.process_time() + 1.6\nwhile time.process_time() < end: sum(range(20_000_000))")
    async with bench(code) as made:
        assert isinstance(await made.work(opened(lease=1.0)), Offer)
    assert any(isinstance(frame, Progress) and frame.activity == "train" for frame in made.frames)


async def test_a_command_that_trains_for_the_app_is_seen_to_work(bench: Make) -> None:
    body = "subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 1.6: pass'], check=True)"
    async with bench(train(body)) as made:
        assert isinstance(await made.work(opened(lease=1.0)), Offer)


async def test_what_the_app_reported_last_is_repeated_while_it_works_in_silence(bench: Make) -> None:
    code = train("task.progress(3, 8)\nend = time.process_time() + 1.6\nwhile time.process_time() < end: pass")
    async with bench(code) as made:
        assert isinstance(await made.work(opened(lease=1.0)), Offer)
    assert [(frame.done, frame.total) for frame in made.frames if isinstance(frame, Progress)][-1] == (3, 8)


async def test_an_app_that_hangs_while_it_is_loaded_is_ended(bench: Make) -> None:
    async with bench("\nthreading.Event().wait()\n") as made:
        assert "it hangs and was ended" in str(await made.failure(opened(lease=1.0)))


async def test_a_daemon_that_keeps_the_output_open_keeps_nobody_waiting(bench: Make, tmp_path: Path) -> None:
    body = (
        "p = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "f = open(__file__ + '.pid', 'w'); f.write(str(p.pid)); f.close()\nsys.modules['os']._exit(1)"
    )
    async with bench(train(body)) as made:
        async with asyncio.timeout(20):
            await made.failure()
            await made.workshop.aclose()
    psutil.Process(int((tmp_path / "app.py.pid").read_text())).kill()


async def test_a_cancelled_task_ends_its_process_with_the_commands_it_started(bench: Make, tmp_path: Path) -> None:
    body = "p = subprocess.Popen(['sleep', '1000'])\n"
    body += "f = open(__file__ + '.pid', 'w'); f.write(str(p.pid)); f.close()\np.wait()"
    async with bench(train(body)) as made:
        task = asyncio.create_task(made.work())
        file = tmp_path / "app.py.pid"
        while not (file.exists() and file.read_text()):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
        pid = int(file.read_text())
        task.cancel()
        await asyncio.wait([task])
        assert made.workshop._process is None
        async with asyncio.timeout(10):
            while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_a_start_that_is_cancelled_half_way_leaves_a_workshop_that_works(bench: Make) -> None:
    async with bench(train("")) as made:
        for turns in range(6):
            starting = asyncio.create_task(made.workshop.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait([starting])
        assert isinstance(await made.work(), Offer)


async def test_a_process_whose_start_is_cancelled_and_cancelled_again_ends_with_its_workshop(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a session ends, and then the client: its end would not know of the process, which stayed unwaited for."""
    create, begun, go_on = asyncio.create_subprocess_exec, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any, **given: Any) -> asyncio.subprocess.Process:
        process = await create(*arguments, **given)
        begun.set()
        await go_on.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow)
    async with bench(train("")) as made:
        starting = asyncio.create_task(made.workshop.start())
        await begun.wait()
        for _ in range(2):
            starting.cancel()
            await asyncio.sleep(0)
        ending = asyncio.create_task(made.workshop.aclose())
        await asyncio.sleep(0)
        go_on.set()
        await ending


async def test_an_end_that_is_cancelled_half_way_leaves_nothing_open(bench: Make) -> None:
    async with bench(train("")) as made:
        await made.work()
        writer = made.workshop._writer
        ending = asyncio.create_task(made.workshop.aclose())
        await asyncio.sleep(0)  # it waits for the process
        ending.cancel()
        await asyncio.wait([ending])
        assert ending.cancelled()
        assert writer is not None
        assert writer.is_closing()


async def test_what_was_learned_waits_for_a_disk_that_is_full(bench: Make, tmp_path: Path) -> None:
    large = Arrays({"w": np.zeros(1 << 20, np.float32), "steps": np.zeros((), np.int64)})
    async with bench(HEAD_OF_A_FULL_DISK + train("")) as made:
        codec.save(large, tmp_path / "objects" / codec.digest(large))
        offer = await made.work(replace(opened(), model=blob_of(large, inline=False)))
    lines = [frame.line for frame in made.frames if isinstance(frame, LogLine)]
    assert isinstance(offer, Offer)
    assert codec.digest(codec.load(update_file(tmp_path / "objects", offer.key))) == offer.blob.digest
    assert [frame.activity for frame in made.frames if isinstance(frame, Progress)] == ["disk", "disk"]
    assert len(lines) == 1
    assert "the disk is full: free some space" in lines[0]


async def test_metrics_that_are_no_numbers_travel_as_they_are(bench: Make) -> None:
    code = "\n@app.evaluate\ndef evaluate(model, task):\n    return hansa.Metrics({'loss': float('nan')}, 3)\n"
    async with bench(code) as made:
        answer = await made.work(opened(Kind.EVALUATE))
    assert isinstance(answer, Evaluated)
    assert np.isnan(answer.metrics["loss"])


def test_no_environment_of_hansa_reaches_user_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSA_TOKEN", "secret")
    found = environment_for_user_code()
    assert "PATH" in found
    assert not [name for name in found if name.startswith("HANSA_")]


@pytest.mark.parametrize(
    "frame",
    [
        Offer(RoundKey("run", 1, Kind.TRAIN), "another", blob_of(MODEL), (Contribution("another", 1),)),
        Offer(RoundKey("run", 1, Kind.TRAIN), "ward", blob_of(MODEL), (Contribution("another", 1),)),
        Offer(RoundKey("run", 1, Kind.TRAIN), "ward", blob_of(MODEL), (Contribution("ward", 1),), True, 1),
        Evaluated(RoundKey("other", 1, Kind.TRAIN), "ward", 1, {"loss": 1.0}),
        LogLine(RoundKey("run", 2, Kind.TRAIN), "ward", "of another round"),
        Hello(Role.CLIENT, "x", "1"),
    ],
)
async def test_code_that_speaks_for_others_in_hansas_own_words_is_ended(frame: FromNode, bench: Make) -> None:
    """Its process has the connection to the agent, and can write to it."""
    raw = framing.encode_from_node(frame)
    message = len(raw).to_bytes(4, "big") + raw
    pipe = "next(each for each in gc.get_objects() if type(each).__name__ == 'FramePipe')"
    body = f"import gc\n{pipe}._connection.sendall({message!r})"
    async with bench(train(body)) as made:
        assert "spoke of what is not its task" in str(await made.failure())
