"""The audit record: on every store its lines are chained in the transaction that they belong to."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
from store_examples import PROJECT, a_session, every

from hansa.errors import ConflictError, CorruptionError, NotFoundError
from hansa.store.audit import chained, verify_audit
from hansa.store.ports import MetadataStore
from hansa.store.records import AuditRecord, ContributionRecord, SessionRecord


def line(target: str = "s1", project: str = PROJECT) -> AuditRecord:
    return AuditRecord("", project, 0, 1.5, "ada", "session.start", target, "done")


async def lines(store: MetadataStore, project: str = PROJECT) -> Sequence[AuditRecord]:
    return cast("Sequence[AuditRecord]", await every(store, AuditRecord, project))


async def test_lines_are_numbered_and_chained_in_each_project_by_itself(store: MetadataStore):
    await store.put(line("a"), line("x", ""), line("b"))
    await store.put(line("c"))

    ours = await lines(store)
    assert [(found.id, found.number, found.target) for found in ours] == [("1", 1, "a"), ("2", 2, "b"), ("3", 3, "c")]
    assert verify_audit(ours) == (3, ours[-1].link)
    assert verify_audit(await lines(store, ""))[0] == 1


async def test_a_line_is_written_with_what_it_tells_of_or_not_at_all(store: MetadataStore):
    await store.create(a_session("a"), line("a"))
    with pytest.raises(ConflictError):
        await store.create(a_session("a"), line("again"))
    with pytest.raises(NotFoundError):
        await store.put(line("orphan"), ContributionRecord("x/1/c", PROJECT, "no such session", 1, "c", "accepted"))
    with pytest.raises(NotFoundError):
        await store.delete_session(PROJECT, "nobody", line("nobody"))
    await store.delete_session(PROJECT, "a", line("gone"))

    assert [found.target for found in await lines(store)] == ["a", "gone"]
    assert await every(store, SessionRecord) == []


async def test_many_writers_at_once_make_one_chain(store: MetadataStore):
    await asyncio.gather(*(store.put(line(str(number))) for number in range(25)))

    assert verify_audit(await lines(store))[0] == 25


async def test_a_line_that_is_stored_cannot_be_stored_again_nor_changed(store: MetadataStore):
    await store.put(line("a"), line("b"))
    before = await lines(store)

    with pytest.raises(ConflictError, match="line 1 of the audit record is stored already"):
        await store.put(replace(before[0], target="z"))

    assert await lines(store) == before


CHAIN: list[AuditRecord] = []
for _target in "abcde":
    CHAIN.append(chained(CHAIN[-1] if CHAIN else None, line(_target)))

FIELDS = {
    "actor": "eve",
    "action": "login",
    "target": "z",
    "outcome": "refused",
    "detail": "x",
    "at": 1.25,
    "project": "p",
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_changed_line_is_found_whatever_was_changed(field: str):
    broken = [*CHAIN[:2], replace(CHAIN[2], **{field: FIELDS[field]}), *CHAIN[3:]]
    with pytest.raises(CorruptionError, match="line 3 of the audit record was changed"):
        verify_audit(broken)


def test_a_line_that_is_changed_with_its_own_link_breaks_the_next():
    forged = chained(CHAIN[1], line("z"))
    with pytest.raises(CorruptionError, match="line 4 of the audit record was changed, or one before it"):
        verify_audit([*CHAIN[:2], forged, *CHAIN[3:]])


@pytest.mark.parametrize(
    "broken",
    [CHAIN[1:], [*CHAIN[:2], *CHAIN[3:]], [CHAIN[1], CHAIN[0], *CHAIN[2:]], [*CHAIN, CHAIN[-1]]],
    ids=["first removed", "middle removed", "reordered", "twice"],
)
def test_a_line_that_is_removed_or_moved_is_found(broken: list[AuditRecord]):
    with pytest.raises(CorruptionError, match="lines are lost or moved"):
        verify_audit(broken)


def test_newest_lines_that_are_removed_are_found_by_who_kept_the_head():
    head = CHAIN[-1].link
    assert verify_audit(CHAIN, head) == (5, head)
    with pytest.raises(CorruptionError, match="its newest lines are lost"):
        verify_audit(CHAIN[:4], head)
