"""What a party keeps while its program is under way: its secret, and what it has said, which it cannot change."""

import stat
from pathlib import Path

import pytest

from hansa.errors import RunFailedError
from hansa.network.client.diary import DIARY, Diary
from hansa.network.client.memory import Memory, forget_diary

ONE, OTHER = "1" * 64, "2" * 64


def said(diary: Diary, *letters: tuple[int, str]) -> Diary:
    for receiver, digest in letters:
        diary.note(receiver, digest)
    return diary


def test_a_party_that_is_run_again_has_its_secret_and_may_say_the_same_and_then_more(tmp_path: Path) -> None:
    first = said(Diary.open(tmp_path / DIARY), (0, ONE), (1, OTHER))
    again = said(Diary.open(tmp_path / DIARY), (0, ONE), (1, OTHER), (0, OTHER))
    assert again.secret == first.secret
    with pytest.raises(RunFailedError, match="says something else to party 1 than before"):
        said(Diary.open(tmp_path / DIARY), (0, ONE), (1, OTHER), (1, OTHER))


@pytest.mark.parametrize("letter", [(0, OTHER), (1, ONE)])
def test_it_says_nothing_else_under_its_secret(tmp_path: Path, letter: tuple[int, str]) -> None:
    said(Diary.open(tmp_path / DIARY), (0, ONE))
    with pytest.raises(RunFailedError, match="nothing was sent"):
        said(Diary.open(tmp_path / DIARY), letter)
    said(Diary.open(tmp_path / DIARY), (0, ONE))


@pytest.mark.parametrize("left", [1, 31])
def test_a_note_that_a_power_cut_has_torn_was_of_a_letter_that_was_not_sent(tmp_path: Path, left: int) -> None:
    file = tmp_path / DIARY
    said(Diary.open(file), (0, ONE), (1, ONE))
    file.write_bytes(file.read_bytes()[: 64 + left])
    said(Diary.open(file), (0, ONE), (1, OTHER), (0, ONE))
    said(Diary.open(file), (0, ONE), (1, OTHER), (0, ONE))


def test_each_run_has_a_secret_of_its_own_that_only_the_owner_reads_and_that_goes_with_it(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory" / "own")
    one, other = memory.diary("../one"), memory.diary("other")
    assert one.secret != other.secret
    assert len(one.secret) == 32
    files = list(tmp_path.glob(f"memory/own/*/{DIARY}"))
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]
    forget_diary(tmp_path / "memory", "../one")
    assert memory.diary("../one").secret != one.secret
    assert memory.diary("other").secret == other.secret
