"""Passwords, and how often they may be tried: over a real store, with a clock of the test's own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
from argon2 import PasswordHasher

from hansa.errors import AuthenticationError, InputError, ThrottledError
from hansa.network.controller.logins import Logins
from hansa.network.controller.passwords import Passwords
from hansa.network.controller.people import People
from hansa.network.controller.throttle import Throttle
from hansa.store.ports import Query
from hansa.store.records import INSTALLATION, AccountRecord, AuditRecord, TokenRecord
from hansa.store.sqlite import SqliteStore
from hansa.wire import tokens

KEY = tokens.new_key()
PUBLIC = tokens.public_key(KEY)
NEW = "another good one"
RIGHT = "correct horse battery"
WRONG = "wrong horse battery"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Hasher(PasswordHasher):
    """Argon2id with little work, which notes how often it is done."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=64)
        self.done = 0

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.done += 1
        return super().hash(password, salt=salt)

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002 - as the library has it
        self.done += 1
        return super().verify(hash, password)


class Door:
    """Logins, and what is behind them."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.clock = Clock()
        self.people = People(store, KEY, set())
        self.hasher = Hasher()
        self.logins = Logins(self.people, self.clock, Passwords(self.hasher))

    async def tries(self, name: str = "ada", password: str = WRONG, address: str = "10.0.0.1") -> str:
        """What came of an attempt: in, wrong, or wait."""
        try:
            await self.logins.log_in(name, password, address)
        except AuthenticationError:
            return "wrong"
        except ThrottledError:
            return "wait"
        return "in"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    store = SqliteStore(tmp_path / "hansa.db")
    await store.open()
    made = Door(store)
    await made.logins.create_account("ada", RIGHT)
    yield made
    await store.close()


async def test_name_and_password_give_a_token_that_ends(door: Door) -> None:
    token, record = await door.logins.log_in("ada", RIGHT, "10.0.0.1")
    assert tokens.verify(PUBLIC, token) == tokens.Identity("ada", tokens.Role.PERSON, INSTALLATION, record.id)
    assert record.expires_at is not None
    assert record.expires_at - record.created_at == 12 * 3600
    assert (record.account, record.role) == ("ada", "person")


async def test_only_an_argon2id_hash_is_kept(door: Door) -> None:
    account = await door.store.get(AccountRecord, INSTALLATION, "ada")
    assert account.password.startswith("$argon2id$v=19$")
    assert RIGHT not in repr(account)
    assert account.password not in repr(account)


async def test_every_wrong_attempt_is_answered_alike(door: Door) -> None:
    await door.people.create_account("without")
    await door.logins.create_account("gone", RIGHT)
    await door.people.disable("gone")
    said = set()
    for name, password in (("ada", WRONG), ("nobody", RIGHT), ("without", ""), ("gone", RIGHT), ("a/b\0", RIGHT)):
        with pytest.raises(AuthenticationError) as caught:
            await door.logins.log_in(name, password, "10.0.0.1")
        said.add(str(caught.value))
    assert said == {"name and password do not fit together, or the account is disabled"}


async def test_an_unknown_name_costs_the_same_work_as_a_known_one(door: Door) -> None:
    """Else the time of an answer would tell who has an account."""
    await door.people.create_account("without")
    costs = []
    for name in ("ada", "nobody", "without", "a/b\0"):
        before = door.hasher.done
        assert await door.tries(name) == "wrong"
        costs.append(door.hasher.done - before)
    assert costs == [1, 1, 1, 1]


async def test_passwords_are_hashed_as_is_recommended() -> None:
    kept = await Passwords().hash(RIGHT)
    assert await Passwords().matches(kept, RIGHT)
    assert not PasswordHasher().check_needs_rehash(kept)


async def test_after_five_wrong_attempts_an_account_waits_and_is_open_again_later(door: Door) -> None:
    assert [await door.tries(address=f"10.0.0.{n}") for n in range(5)] == ["wrong"] * 5
    assert await door.tries(password=RIGHT, address="10.0.0.99") == "wait"
    with pytest.raises(ThrottledError, match="wait 900 seconds"):
        await door.logins.log_in("ada", RIGHT, "10.0.0.99")
    door.clock.now = 900.0
    assert await door.tries(password=RIGHT) == "in"


async def test_a_name_that_nobody_has_is_throttled_as_one_that_somebody_has(door: Door) -> None:
    assert [await door.tries("nobody") for _ in range(6)] == ["wrong"] * 5 + ["wait"]


async def test_an_address_that_tries_many_names_waits(door: Door) -> None:
    outcomes = [await door.tries(f"name-{n}") for n in range(31)]
    assert outcomes == ["wrong"] * 30 + ["wait"]
    assert await door.tries(password=RIGHT) == "wait"
    assert await door.tries(password=RIGHT, address="10.0.0.2") == "in"


async def test_many_attempts_at_once_are_no_way_round(door: Door) -> None:
    outcomes = await asyncio.gather(*(door.tries() for _ in range(12)))
    assert (outcomes.count("wrong"), outcomes.count("wait")) == (5, 7)


async def test_a_right_password_begins_anew(door: Door) -> None:
    for _ in range(3):
        assert [await door.tries() for _ in range(4)] == ["wrong"] * 4
        assert await door.tries(password=RIGHT) == "in"


async def test_another_password_logs_out_what_was_logged_in_with_the_former(door: Door) -> None:
    _, kept = await door.logins.log_in("ada", RIGHT, "10.0.0.1")
    await door.logins.log_in("ada", RIGHT, "10.0.0.2")
    await door.logins.change_password("ada", RIGHT, NEW, "10.0.0.1", keep=kept.id)
    assert await door.tries(password=RIGHT) == "wrong"
    assert await door.tries(password=NEW) == "in"
    rows = (await door.store.list(TokenRecord, Query(INSTALLATION))).items
    assert [row.revoked for row in rows] == [False, True, False]


@pytest.mark.parametrize("password", ["", "ninechars", "x" * 1001])
async def test_a_password_that_is_too_short_or_too_long_is_refused(door: Door, password: str) -> None:
    with pytest.raises(InputError, match=f"this one has {len(password)}") as caught:
        await door.logins.set_password("ada", password)
    assert not password or password not in str(caught.value)


def test_a_throttle_forgets_what_is_long_ago_and_keeps_few_keys() -> None:
    throttle = Throttle(2, 10.0)
    for now in (0.0, 4.0):
        assert throttle.wait("a", now) == 0
        throttle.count("a", now)
    assert throttle.wait("a", 5.0) == 5.0
    assert throttle.wait("a", 10.0) == 0
    for number in range(20_000):
        throttle.count(str(number), 11.0)
    assert len(throttle._attempts) == 10_000


@pytest.mark.parametrize("how", ["the password is changed", "the token is revoked", "the account is disabled"])
async def test_a_code_to_log_in_ends_with_the_token_that_it_was_asked_for_with(door: Door, how: str) -> None:
    token, record = await door.logins.log_in("ada", RIGHT, "10.0.0.1")
    asked_with = tokens.verify(PUBLIC, token)
    code, _ = await door.logins.make_code("ada", asked_with)
    match how:
        case "the password is changed":
            await door.logins.set_password("ada", NEW)
        case "the token is revoked":
            await door.people.revoke("ada", INSTALLATION, record.id)
        case _:
            await door.people.create_account("root", admin=True)
            await door.people.disable("ada")
    with pytest.raises(AuthenticationError, match="whoever made it is logged out"):
        await door.logins.log_in_by_code(code, "10.0.0.9")
    lines = (await door.store.list(AuditRecord, Query(INSTALLATION, {"action": "login"}, sort="-id", limit=1))).items
    assert [(line.target, line.outcome, line.detail) for line in lines] == [("ada", "failed", "10.0.0.9")]


async def test_a_code_logs_in_once_and_for_no_longer_than_the_token_that_it_was_asked_for_with(door: Door) -> None:
    token, record = await door.people.issue("ada", called="short", expires_in=60.0)
    code, _ = await door.logins.make_code("ada", tokens.verify(PUBLIC, token))
    gate = asyncio.Event()

    async def use() -> TokenRecord | None:
        await gate.wait()
        try:
            return (await door.logins.log_in_by_code(code, "10.0.0.9"))[1]
        except AuthenticationError:
            return None

    both = [asyncio.create_task(use()) for _ in range(2)]
    gate.set()
    made = [found for found in await asyncio.gather(*both) if found is not None]
    assert len(made) == 1
    assert made[0].expires_at is not None
    assert record.expires_at is not None
    assert made[0].expires_at <= record.expires_at + 1
