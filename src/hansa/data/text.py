"""Text as numbers: to predict the next character from those before it; and plays, whose speakers are the owners.

```python
users = tff.read_clients("shakespeare_train.h5", "shakespeare_test.h5").map(text.next_characters)
speakers = text.read_plays("input.txt").map(text.next_characters)
```

McMahan et al. 2017, arXiv:1602.05629, and Caldas et al. 2018 (LEAF), arXiv:1812.01097, predict from 80 characters.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hansa.arrays import Array
from hansa.data.examples import Examples, Split
from hansa.data.federated import FederatedData, Names
from hansa.errors import InputError

__all__ = ["ALPHABET", "next_characters", "read_plays"]

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""What has a number of its own: character k of it is k + 1, and 0 stands for every other."""

_TEST_SHARE = 0.2


def next_characters(split: Split, *, length: int = 80, step: int = 1, alphabet: str = ALPHABET) -> Split:
    """Windows of `length` characters and the character after each: int64 of shape (n, length), and of shape (n,).

    split: its x are texts, shape (n,); one of m characters gives ⌈(m − length) / step⌉ examples, none where it is no
    longer than a window. Where its y are single characters, as in LEAF's files, each is the one after its text, whose
    last `length` characters are the window; `InputError` where a text is shorter. step: characters from one window to
    the next. For other lengths use a lambda with `map`.
    """
    if length < 1 or step < 1 or not alphabet:
        raise InputError(f"length is {length}, step {step}, the alphabet {alphabet!r}; the first must be at least 1")
    return Split(*(_windows(_texts_of(part, length), length, step, alphabet) for part in (split.train, split.test)))


def read_plays(path: str | Path, *, min_length: int = 0) -> FederatedData:
    """Speaker → what they say in the plays of a file, in their order: the first 80 % to train on, the rest for testing.

    path: UTF-8; blocks between blank lines, each of `SPEAKER:` on a line and the speech on those that follow; a block
    without a speech is passed over. min_length: characters below which a speaker is left out. As x and y of each part
    there is one text, shape (1,). Raises `InputError` where the file has no speeches.
    """
    file = Path(path)
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}; give a file of plays as text") from error
    speeches: dict[str, list[str]] = {}
    for block in content.split("\n\n"):
        who, colon, said = block.strip("\n").partition(":\n")
        if colon and who and "\n" not in who:
            speeches.setdefault(who, []).append(said)
    whole = {who: "\n".join(said) for who, said in speeches.items()}
    whole = {who: said for who, said in whole.items() if len(said) >= min_length}
    if not whole:
        raise InputError(
            f"{file} has no speeches; expected 'SPEAKER:' on a line and the speech below, then a blank line"
        )

    def split(who: str) -> Split:
        cut = round((1 - _TEST_SHARE) * len(whole[who]))
        return Split(*(Examples(_texts([piece]), _texts([piece])) for piece in (whole[who][:cut], whole[who][cut:])))

    return FederatedData(Names(whole), split, what="speaker")


def _texts_of(part: Examples, length: int) -> list[str]:
    """Of windows with the character after each, the window and that; else the texts as they are."""
    texts, after = list(map(str, part.x.tolist())), part.y.tolist()
    if texts == after or not all(isinstance(letter, str) and len(letter) == 1 for letter in after):
        return texts
    if short := [text for text in texts if len(text) < length]:
        raise InputError(f"a text has {len(short[0])} characters, and windows are of {length}: give length=")
    return [text[-length:] + letter for text, letter in zip(texts, after, strict=True)]


def _texts(pieces: Sequence[str]) -> Array:
    array = np.empty(len(pieces), object)
    array[:] = pieces
    return array


def _windows(texts: Sequence[str], length: int, step: int, alphabet: str) -> Examples:
    places = {letter: place for place, letter in enumerate(alphabet, 1)}
    inputs, targets = [np.empty((0, length), np.int64)], [np.empty(0, np.int64)]
    for text in texts:
        codes = np.array([places.get(letter, 0) for letter in str(text)], np.int64)
        if len(codes) > length:
            inputs.append(np.lib.stride_tricks.sliding_window_view(codes[:-1], length)[::step])
            targets.append(codes[length::step])
    return Examples(np.concatenate(inputs), np.concatenate(targets))
