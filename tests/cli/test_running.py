"""Log lines of long-running commands."""

import io
import re

import pytest
import structlog

from hansa.cli.running import log_to


def test_a_log_line_has_a_time_what_happened_and_its_keys() -> None:
    stream = io.StringIO()
    log_to(stream, level="info")
    structlog.get_logger().warning("connection lost", client="ward", why="reset")
    line = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}  warning: connection lost  client=ward why=reset\n"
    assert re.fullmatch(line, stream.getvalue())


def test_a_log_line_in_a_terminal_has_the_time_of_day_alone() -> None:
    stream = _Terminal()
    log_to(stream, level="info")
    structlog.get_logger().info("connected")
    assert re.fullmatch(r"(\x1b\[\dm)?\d\d:\d\d:\d\d(\x1b\[0m)?  connected\s*(\x1b\[\dm\x1b\[0m)?\n", stream.getvalue())


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("level", ["info", "error"])
def test_a_stream_that_nobody_reads_any_more_does_not_end_the_node(level: str) -> None:
    stream = io.StringIO()
    log_to(stream, level="info")
    stream.close()
    getattr(structlog.get_logger(), level)("the app failed", client="ward")
