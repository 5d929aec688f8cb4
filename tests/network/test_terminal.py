"""What strangers say, where people read it."""

import io

import pytest
import structlog

from hansa.cli.output import say
from hansa.cli.running import log_to
from hansa.network.terminal import harmless, in_a_line

FORGED = "done\r05:31:00  error: forged\x1b[2J\x1b]0;title\x07\u202e\x9b1m"


def test_nothing_that_a_terminal_would_obey_is_left() -> None:
    assert in_a_line(FORGED) == "done\\r05:31:00  error: forged\\x1b[2J\\x1b]0;title\\x07\\u202e\\x9b1m"
    assert harmless(FORGED) == in_a_line(FORGED)
    assert harmless("\x1b[31mred\x1b[0m\tand\nlines, é, 模型") == "\x1b[31mred\x1b[0m\tand\nlines, é, 模型"
    assert in_a_line("\x1b[31mred") == "\\x1b[31mred"


def test_a_log_has_as_many_lines_as_things_happened() -> None:
    stream, before = io.StringIO(), structlog.get_config()
    try:
        log_to(stream, level="info")
        structlog.get_logger().warning(
            "the app printed", line="a line\n05:31:00  login  user=operator", client="\x1b[A"
        )
    finally:
        structlog.configure(**before)
    first, second = stream.getvalue().splitlines()
    assert first.partition("  ")[2] == "warning: the app printed  line=a line"
    assert second == "    05:31:00  login  user=operator client=\\x1b[A"


def test_what_a_command_tells_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    say("round 1\x1b[1A\x1b[2Kround 2")
    assert capsys.readouterr().out == "round 1\\x1b[1A\\x1b[2Kround 2\n"
