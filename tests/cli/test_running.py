"""Log lines of long-running commands."""

import io

import pytest
import structlog

from hansa.cli.running import log_to


def test_a_log_line_has_a_time_what_happened_and_its_keys() -> None:
    stream = io.StringIO()
    log_to(stream, level="info")
    structlog.get_logger().warning("connection lost", client="ward", why="reset")
    assert stream.getvalue().endswith("  warning: connection lost  client=ward why=reset\n")


@pytest.mark.parametrize("level", ["info", "error"])
def test_a_stream_that_nobody_reads_any_more_does_not_end_the_node(level: str) -> None:
    stream = io.StringIO()
    log_to(stream, level="info")
    stream.close()
    getattr(structlog.get_logger(), level)("the app failed", client="ward")
