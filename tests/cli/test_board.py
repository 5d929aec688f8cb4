from dataclasses import replace

import pytest

from hansa.cli.board import PlainBoard, Row, number, shown_metrics
from hansa.cli.output import size, span
from hansa.cli.watching import Rounds
from hansa.store.records import EventRecord

ROW = Row(3, {"accuracy": 0.91234, "loss": 12345.0}, accepted=9, rejected=1, seconds=0.5)


def test_elsewhere_than_in_a_terminal_a_round_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainBoard("title", 20) as board:
        board.row(ROW)
        board.status("unseen")
        board.row(replace(ROW, round=4, rejected=0, failed=1, missing=2, names=("client-1: no such patient",)))
    assert capsys.readouterr().out.splitlines() == [
        "title",
        "round  3/20  accuracy 0.9123  loss 1.234e+04  9 accepted, 1 rejected  0.50 s",
        "round  4/20  accuracy 0.9123  loss 1.234e+04  9 accepted, 0 rejected, 1 failed, 2 missing  0.50 s",
        "  client-1: no such patient",
    ]


def test_accuracy_and_loss_come_first_and_three_are_shown() -> None:
    assert shown_metrics({"a": 1.0, "b": 1.0, "loss": 1.0, "accuracy": 1.0}) == ["accuracy", "loss", "a"]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (float("nan"), "–"), (0.0, "0.0000"), (0.5, "0.5000"), (1e-5, "1.000e-05")]
)
def test_numbers_have_four_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.123, "0.12 s"), (34.4, "34 s"), (303.0, "5 min 3 s"), (7800.0, "2 h 10 min")]
)
def test_a_length_of_time_is_read_at_a_glance(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(812, "812 B"), (2600, "2.6 kB"), (41_000_000, "41 MB")])
def test_bytes_have_a_prefix(count: int, text: str) -> None:
    assert size(count) == text


# ── events as rows ───────────────────────────────────────────────────────────────────────────────────────────────────


def event(kind: str, number: int, **data: object) -> EventRecord:
    return EventRecord(1, "default", "s", kind, f"{kind} of {number}", 0.0, {"round": number, **data})


def committed(number: int) -> EventRecord:
    return event("round.committed", number, accepted=2, rejected=0, failed=0, missing=["c"], seconds=0.1, metrics={})


def test_a_round_is_shown_with_its_evaluation() -> None:
    shown: list[Row] = []
    rounds = Rounds(shown.append, lambda _number: True)
    rounds.take(committed(1))
    assert shown == []
    rounds.take(event("round.evaluated", 1, metrics={"accuracy": 0.5}))
    assert shown == [Row(1, {"accuracy": 0.5}, 2, missing=1, seconds=0.1, names=("missing: c",))]


def test_a_round_that_is_not_evaluated_is_shown_at_once() -> None:
    shown: list[Row] = []
    rounds = Rounds(shown.append, lambda _number: False)
    rounds.take(committed(1))
    assert [row.round for row in shown] == [1]


def test_a_round_whose_evaluation_never_came_is_shown_with_the_next_or_at_the_end() -> None:
    shown: list[Row] = []
    rounds = Rounds(shown.append, lambda _number: True)
    rounds.take(committed(1))
    rounds.take(committed(2))
    assert [row.round for row in shown] == [1]
    rounds.end()
    assert [row.round for row in shown] == [1, 2]


def test_a_failure_is_told_with_the_round_that_it_happened_in() -> None:
    shown: list[Row] = []
    rounds = Rounds(shown.append, lambda _number: False)
    rounds.take(event("task.failed", 1, client="c"))
    rounds.take(committed(1))
    rounds.take(committed(2))
    assert [row.names for row in shown] == [("task.failed of 1", "missing: c"), ("missing: c",)]
