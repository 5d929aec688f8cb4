"""Text as numbers."""

from pathlib import Path

import numpy as np
import pytest

from hansa.data import text
from hansa.data.examples import Examples, Split
from hansa.errors import InputError


def split_of(*texts: str) -> Split:
    x = np.array(texts, object)
    return Split(Examples(x, x), Examples(x[:1], x[:1]))


def test_each_window_is_followed_by_its_target() -> None:
    split = text.next_characters(split_of("abcde", "ab", "xyzü"), length=3, alphabet="abcdexyz")
    assert split.train.x.tolist() == [[1, 2, 3], [2, 3, 4], [6, 7, 8]]
    assert split.train.y.tolist() == [4, 5, 0]
    assert split.test.x.tolist() == [[1, 2, 3], [2, 3, 4]]
    every_second = text.next_characters(split_of("abcdefg"), length=2, step=2, alphabet="abcdefg").train
    assert (every_second.x.tolist(), every_second.y.tolist()) == ([[1, 2], [3, 4], [5, 6]], [3, 5, 7])
    nothing = text.next_characters(split_of("ab"), length=3).train
    assert (nothing.x.shape, nothing.x.dtype, len(nothing.y)) == ((0, 3), np.int64, 0)
    with pytest.raises(InputError, match="length is 0"):
        text.next_characters(split_of("ab"), length=0)


def test_speakers_are_owners(tmp_path: Path) -> None:
    file = tmp_path / "play.txt"
    file.write_text("ANN:\nTo be,\nor not.\n\nBOB:\nWhat?\n\nstray line\n\nANN:\nSo: yes.\n\nCY:\n")
    speakers = text.read_plays(file)
    assert list(speakers) == ["ANN", "BOB"]
    ann = speakers["ANN"]
    assert ann.train.x[0] + ann.test.x[0] == "To be,\nor not.\nSo: yes."
    assert len(ann.train.x[0]) == round(0.8 * 23)
    assert list(text.read_plays(file, min_length=10)) == ["ANN"]
    file.write_text("nothing here")
    with pytest.raises(InputError, match=r"play\.txt has no speeches"):
        text.read_plays(file)
    with pytest.raises(InputError, match="cannot be read"):
        text.read_plays(tmp_path / "none")


def test_tiny_shakespeare_has_its_speakers(shared_data: Path) -> None:
    speakers = text.read_plays(shared_data / "tinyshakespeare" / "input.txt")
    assert len(speakers) == 299
    long = sum(len(split.train.x[0]) + len(split.test.x[0]) >= 1000 for split in speakers.values())
    assert long == pytest.approx(141, abs=3)  # 141 without the line ends between speeches
    duke = speakers.map(text.next_characters)["GLOUCESTER"]
    assert duke.train.x.shape == (len(speakers["GLOUCESTER"].train.x[0]) - 80, 80)
    assert np.array_equal(duke.train.x[1:, -1], duke.train.y[:-1])
    assert duke.train.x.min() > 0


def test_windows_with_the_character_after_each_are_leafs() -> None:
    whole = "to be, or not to be"
    windows = Examples(np.array([whole[i : i + 8] for i in range(11)]), np.array([whole[i + 8] for i in range(11)]))
    texts = Examples(np.array([whole]), np.array([whole]))
    leafs = text.next_characters(Split(windows, windows.take(np.arange(0))), length=8)
    plays = text.next_characters(Split(texts, texts), length=8)
    assert np.array_equal(leafs.train.x, plays.train.x)
    assert np.array_equal(leafs.train.y, plays.train.y)
    assert np.array_equal(text.next_characters(Split(windows, windows), length=5).train.x, leafs.train.x[:, 3:])
    assert leafs.test.x.shape == (0, 8)
    with pytest.raises(InputError, match="a text has 8 characters, and windows are of 80: give length="):
        text.next_characters(Split(windows, windows))
