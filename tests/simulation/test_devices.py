"""How devices behave."""

from typing import Any

import numpy as np
import pytest

from hansa.errors import ConfigError
from hansa.run import derive_rng
from hansa.simulation import Behaviour, Dropouts, Instant, Invitation, LogNormalSpeeds, Stragglers

TEN = [f"client-{k}" for k in range(10)]


def random_for(*keys: str | int) -> np.random.Generator:
    return derive_rng(0, "device", *keys)


def test_instant_devices_take_no_time() -> None:
    assert Instant().behave(TEN, Invitation(1), random_for) == [Behaviour(0.0)] * 10


def test_nine_in_ten_straggle_in_every_round_and_never_all() -> None:
    for number in range(1, 30):
        works = [behaviour.work for behaviour in Stragglers(0.9).behave(TEN, Invitation(number), random_for)]
        assert sum(work < 1 for work in works) == 9


def test_the_work_of_stragglers_is_uniform() -> None:
    works = np.array(
        [
            b.work
            for number in range(1, 201)
            for b in Stragglers(1.0).behave(TEN, Invitation(number), random_for)
            if b.work < 1
        ]
    )
    assert works.size == 2000
    assert np.histogram(works, 4, (0, 1))[0] == pytest.approx([500] * 4, abs=80)


def test_a_substitute_straggles_with_the_same_probability() -> None:
    slow = sum(Stragglers(0.25).behave([f"client-{k}"], Invitation(1), random_for)[0].work < 1 for k in range(1000))
    assert slow == pytest.approx(250, abs=60)


def test_dropouts_vanish_at_their_rate() -> None:
    gone = sum(
        b.drops_out for number in range(1, 101) for b in Dropouts(0.3).behave(TEN, Invitation(number), random_for)
    )
    assert gone == pytest.approx(300, abs=60)


def test_a_device_keeps_its_speed_and_jitters_around_it() -> None:
    same = LogNormalSpeeds(10.0, sigma=1.0)
    assert same.behave(TEN, Invitation(1), random_for) == same.behave(TEN, Invitation(2), random_for)
    assert len({b.seconds for b in same.behave(TEN, Invitation(1), random_for)}) == 10
    jittery = LogNormalSpeeds(10.0, sigma=0.0, jitter=0.5)
    assert jittery.behave(TEN, Invitation(1), random_for) != jittery.behave(TEN, Invitation(2), random_for)
    seconds = [b.seconds for number in range(1, 101) for b in jittery.behave(TEN, Invitation(number), random_for)]
    assert np.median(seconds) == pytest.approx(10.0, rel=0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dropouts(1.5),
        lambda: Stragglers(-0.1),
        lambda: Stragglers(0.5, least_work=2.0),
        lambda: LogNormalSpeeds(sigma=-1.0),
        lambda: LogNormalSpeeds(dropout=7),
        lambda: Behaviour(seconds=-1.0),
        lambda: Behaviour(seconds=float("nan")),
        lambda: Behaviour(work=0.0),
        lambda: Behaviour(work=1.1),
    ],
)
def test_a_device_that_cannot_be_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match="must be"):
        make()


@pytest.mark.parametrize("make", [LogNormalSpeeds, Stragglers, Dropouts])
def test_a_share_or_a_scale_is_a_number(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"must be (a number|numbers)"):
        make("0.5")
