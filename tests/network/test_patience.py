"""Whoever waits for a store says so, without filling the log."""

import asyncio

import pytest
import structlog

from hansa.errors import StorageUnavailableError
from hansa.network import patience
from hansa.network.patience import patiently


async def test_a_store_that_is_away_is_told_once_and_so_is_its_return(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "_PAUSE", 0)
    answers = ["away for 1.5s", "away for 210ms", "full", "full", "full", ""]

    async def ask() -> str:
        if why := answers.pop(0):
            raise StorageUnavailableError(why)
        return "kept"

    with structlog.testing.capture_logs() as lines:
        assert await patiently(ask, who="the round") == "kept"

    assert [(line["event"], line.get("why")) for line in lines] == [
        ("a store is away, and waited for", "away for 1.5s"),
        ("a store is away, and waited for", "full"),
        ("the store is back", None),
    ]


async def test_a_store_that_stays_away_is_told_again_now_and_then(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "_PAUSE", 0)
    now = [100.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    tries = 0

    async def ask() -> None:
        nonlocal tries
        tries, now[0] = tries + 1, now[0] + 10
        if tries < 7:
            raise StorageUnavailableError("away")

    with structlog.testing.capture_logs() as lines:
        await patiently(ask, who="the round")

    assert [line["event"] for line in lines] == ["a store is away, and waited for"] * 2 + ["the store is back"]
