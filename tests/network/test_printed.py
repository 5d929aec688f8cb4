"""What a process printed, however little the agent gets to read it."""

from hansa.network.client.printed import Printed


async def test_what_was_printed_last_is_passed_on_though_there_was_no_time_to_read_it() -> None:
    lines: list[str] = []
    printed = Printed(lines.append)
    with printed.open() as writing:
        writing.write(b"one\ntwo\n" + b"x" * 40_000 + b"\nlast, without its end")
    printed.close()  # this loop has read nothing yet
    assert lines == ["one", "two", "x" * 40_000, "last, without its end"]


async def test_a_daemon_that_holds_the_pipe_open_is_not_waited_for() -> None:
    lines: list[str] = []
    printed = Printed(lines.append)
    with printed.open() as writing:
        writing.write(b"before\n")
        writing.flush()
        printed.close()
        assert lines == ["before"]
        printed.close()
    assert lines == ["before"]


async def test_a_second_process_is_read_after_the_first() -> None:
    lines: list[str] = []
    printed = Printed(lines.append)
    for name in (b"first", b"second"):
        with printed.open() as writing:
            writing.write(name)
        printed.close()
    assert lines == ["first", "second"]
