"""What a client finds again in its outbox after its process has died."""

import os
from pathlib import Path

import pytest
from rig import KEY, MODEL, blob_of

from hansa.messages import Contribution
from hansa.network.client.outbox import Outbox
from hansa.wire.frames import Offer

OFFER = Offer(KEY, "ann", blob_of(MODEL), (Contribution("ann", 1),))


class KilledError(Exception):
    """The process ends here."""


def opened(folder: Path) -> Outbox:
    made = Outbox(folder / "outbox", folder / "objects")
    made.open()
    return made


def test_what_was_kept_is_there_again_until_it_is_forgotten(tmp_path: Path) -> None:
    opened(tmp_path).keep(OFFER)
    again = opened(tmp_path)
    assert again.get(KEY) == OFFER
    again.forget(KEY)
    assert opened(tmp_path).get(KEY) is None
    assert list((tmp_path / "outbox").iterdir()) == []


def test_an_offer_whose_keeping_a_kill_has_cut_off_is_gone_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for an offer, it would be there again after every start: nothing forgets it under its provisional name."""
    made = opened(tmp_path)

    def killed(_: int) -> None:
        raise KilledError

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KilledError):
        made.keep(OFFER)
    assert [file.name for file in (tmp_path / "outbox").iterdir()] == [".unfinished"]
    assert opened(tmp_path).get(KEY) is None
    assert list((tmp_path / "outbox").iterdir()) == []
