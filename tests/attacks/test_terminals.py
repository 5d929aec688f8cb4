"""Text of strangers in somebody else's terminal and log: a client's labels, a failure's reason, what an app prints."""

import io
import json
import re

import pytest
import structlog

from hansa.cli import board, output
from hansa.cli.failures import report
from hansa.cli.running import log_to
from hansa.errors import ConflictError
from hansa.visible import in_json, visible

TITLE = "\x1b]0;owned\x07"
CLEAR = "\x1b[2J\x1b[H"
C1 = "\x9b2J"
BACKWARDS = "\u202egnp.exe"
LINE = "late\n12:00:01  connected  client=ward"
HOSTILE = (TITLE, CLEAR, C1, BACKWARDS, "\r\x1b[K", "\x08" * 40, "\x00", "\u2028")
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("text", HOSTILE)
def test_what_steers_a_terminal_is_shown_and_not_obeyed(text: str) -> None:
    shown = visible(f"a{text}b")
    assert not STEERS.search(shown)
    assert shown.startswith("a\\")
    assert json.loads(in_json(json.dumps(text, ensure_ascii=False))) == text
    assert not STEERS.search(in_json(json.dumps(text, ensure_ascii=False)))


def test_words_of_any_language_stay_as_they_are() -> None:
    for text in ("Universitätsklinikum", "病院-7", "مستشفى", "👩‍⚕️", "a\\b"):
        assert visible(text) == text
    assert visible("two\nlines\tand more") == "two\\x0alines\\x09and more"
    assert visible("two\nlines\tand more", lines=True) == "two\nlines\tand more"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_clients_labels_neither_steer_a_terminal_nor_begin_a_line(
    terminal: bool,  # noqa: FBT001 - of the table
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output, "in_terminal", lambda: terminal)
    labels = {f"k{i}": text for i, text in enumerate((*HOSTILE, LINE))}
    output.print_table([labels], {"labels": output.labels_of}, as_json=False, nothing="")
    output.print_record(labels, {"labels": output.labels_of(labels)}, as_json=False)
    output.print_json(labels)
    output.say(output.labels_of(labels))
    told = capsys.readouterr().out
    own = "\x1b[2m" if terminal else ""
    assert not STEERS.search(told.replace(own, "").replace("\x1b[0m", ""))
    assert json.loads(next(line for line in told.splitlines() if line.startswith("{"))) == labels


@pytest.mark.parametrize("name", [*HOSTILE, LINE, "[/dim] [link=https://example.org]here[/link]", "[/nothing]"])
def test_the_reason_of_a_failure_neither_steers_a_board_nor_breaks_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row = board.Row(1, {f"loss{name}": 0.5}, accepted=1, failed=1, names=(f"ward: {name}",))
    for made in (board.PlainBoard(f"session {name}", 1), board.LiveBoard(f"session {name}", 1)):
        with made:
            made.status(name)
            made.row(row)
            made.say(name)
    told = capsys.readouterr().out
    assert not STEERS.search(told)
    assert "example.org" not in told or "[link=https://example.org]here" in told


@pytest.mark.parametrize("terminal", [False, True])
def test_nobody_writes_a_line_of_somebody_elses_log(terminal: bool) -> None:  # noqa: FBT001 - of the table
    log, before = Terminal() if terminal else io.StringIO(), structlog.get_config()
    try:
        log_to(log, level="info")
        for text in (*HOSTILE, LINE):
            structlog.get_logger("test").info("update rejected", client="ward", detail=text)
    finally:
        structlog.configure(**before)
    lines = re.sub("\x1b\\[[0-9;]*m", "", log.getvalue()).splitlines()
    assert len(lines) == len(HOSTILE) + 1
    assert not any(STEERS.search(line) for line in lines)


def test_a_servers_refusal_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report(ConflictError("".join(HOSTILE)), as_json=True)
    told = capsys.readouterr()
    assert not STEERS.search(told.out + told.err)
