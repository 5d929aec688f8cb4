import struct
from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from store_examples import a_commit, a_session, digest

from hansa.errors import CorruptionError, InputError
from hansa.statements import number, real, reals, text
from hansa.store.link import round_link, verify_chain
from hansa.store.records import ContributionRecord, RoundRecord

Chain = tuple[list[RoundRecord], list[ContributionRecord]]


def a_chain(rounds: int = 4) -> Chain:
    records: list[RoundRecord] = []
    contributions: list[ContributionRecord] = []
    for which in range(1, rounds + 1):
        commit = a_commit(a_session(), which)
        link = round_link(records[-1].link if records else "", commit.round, commit.contributions)
        records.append(replace(commit.round, link=link))
        contributions.extend(commit.contributions)
    return records, contributions


def test_the_link_is_the_hash_of_the_documented_encoding():
    def text(s: str) -> bytes:  # by itself, once
        return struct.pack("<Q", len(s.encode())) + s.encode()

    record = replace(a_commit(a_session("sé"), 7, clients=2).round, parent_model="p", model="m", state="t")
    contributions = [
        ContributionRecord("2", "harbour", "sé", 7, "ö", "accepted", 258, "d2"),
        ContributionRecord("3", "harbour", "sé", 7, "n", "rejected", 9, "d3"),
        ContributionRecord("1", "harbour", "sé", 7, "z", "accepted", 1, ""),
    ]
    encoding = (
        text("hansa round link 1")
        + text("before")
        + text("sé")
        + struct.pack("<Q", 7)
        + text("p")
        + text("m")
        + text("t")
        + struct.pack("<Q", 2)
        + (text("z") + struct.pack("<Q", 1) + text(""))  # "z" is 7a and "ö" c3 b6
        + (text("ö") + struct.pack("<Q", 258) + text("d2"))
    )

    assert round_link("before", record, contributions) == blake3(encoding).hexdigest()


def test_the_link_of_a_known_round_never_changes_between_versions():
    commit = a_commit(a_session(), 1)

    link = round_link("", commit.round, commit.contributions)

    assert link == "bf3b39e21276507ade18452088e9b9fce05d5394d3bb62bbf244d03b996d6dc1"


def test_a_round_that_keeps_what_it_has_added_names_it_in_its_link():
    record = replace(a_commit(a_session(), 1).round, broadcast="b", run="r", journal="j")
    kept = replace(record, aggregate="a", aggregate_size=5, aggregate_weight=7)
    encoding = (
        text("hansa round link 3")
        + (text("before") + text("harbour") + text("s1") + number(1) + text("r"))
        + (text(digest(0)) + text(digest(1)) + text(digest(1001)) + text("b"))
        + (real(10.0) + real(15.0) + reals({"loss": 0.5}) + text("j"))
        + number(0)
        + (text("a") + number(7))
    )

    assert round_link("before", kept, ()) == blake3(encoding).hexdigest()
    without = round_link("", record, ())
    others = replace(kept, aggregate="b"), replace(kept, aggregate_weight=8)
    links = {without, *(round_link("", each, ()) for each in (kept, *others))}
    assert len(links) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"session": "s2"},
        {"number": 2},
        {"parent_model": digest(8)},
        {"model": digest(8)},
        {"state": digest(8)},
    ],
    ids=str,
)
def test_the_link_covers_each_field_of_the_round(change: dict[str, object]):
    commit = a_commit(a_session(), 1)

    assert round_link("", commit.round, ()) != round_link("", replace(commit.round, **change), ())


@pytest.mark.parametrize(
    "change", [{"client": "b"}, {"num_examples": 2}, {"digest": "e"}, {"outcome": "missing"}], ids=str
)
def test_the_link_covers_each_field_of_an_accepted_contribution(change: dict[str, object]):
    record = a_commit(a_session(), 1).round
    one = ContributionRecord("1", "harbour", "s1", 1, "a", "accepted", 1, "d")

    assert round_link("", record, [one]) != round_link("", record, [replace(one, **change)])


def test_the_link_covers_the_link_before():
    record = a_commit(a_session(), 1).round

    assert round_link("", record, ()) != round_link(digest(1), record, ())


@given(st.permutations(range(4)))
def test_the_order_of_the_contributors_does_not_matter(order: list[int]):
    commit = a_commit(a_session(), 1)

    shuffled = [commit.contributions[i] for i in order]

    assert round_link("", commit.round, shuffled) == round_link("", commit.round, commit.contributions)


def test_letters_that_move_between_neighbouring_texts_change_the_link():
    record = a_commit(a_session(), 1).round

    assert round_link("", replace(record, parent_model="ab", model="c"), ()) != round_link(
        "", replace(record, parent_model="a", model="bc"), ()
    )


def test_a_client_cannot_be_counted_twice():
    commit = a_commit(a_session(), 1)

    with pytest.raises(InputError, match="'client-0' twice"):
        round_link("", commit.round, [*commit.contributions, replace(commit.contributions[0], num_examples=9)])


@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_a_whole_chain_verifies_in_any_order(rounds: int):
    records, contributions = a_chain(rounds)

    verify_chain(reversed(records), reversed(contributions), head=records[-1].link if records else None)


def swap(chain: Chain, index: int, **change: object) -> Chain:
    records = list(chain[0])
    records[index] = replace(records[index], **change)
    return records, chain[1]


def forged(chain: Chain) -> Chain:
    """Round 2 rewritten with a link that is right for its new content."""
    records, contributions = chain
    changed = replace(records[1], state=digest(666))
    link = round_link(records[0].link, changed, [c for c in contributions if c.round == 2])
    return [records[0], replace(changed, link=link), *records[2:]], contributions


def lighter(chain: Chain) -> Chain:
    """One example moved from one contribution of round 3 to another: the sum is the same."""
    records, contributions = chain
    third = [i for i, c in enumerate(contributions) if c.round == 3]
    moved = list(contributions)
    moved[third[0]] = replace(moved[third[0]], num_examples=2)
    moved[third[1]] = replace(moved[third[1]], num_examples=1)
    return records, moved


BROKEN = {
    "the first round lost": (lambda c: (c[0][1:], [x for x in c[1] if x.round > 1]), "round 1 of session s1 is lost"),
    "a middle round lost": (lambda c: ([r for r in c[0] if r.number != 3], c[1]), "round 3 of session s1 is lost"),
    "only its contributions left": (lambda c: (c[0][:3], c[1]), "round 4 is lost"),
    "a round twice": (lambda c: ([*c[0], c[0][1]], c[1]), "is lost"),
    "a model exchanged": (lambda c: swap(c, 1, model=digest(666)), "round 2 of session s1 has been changed"),
    "a state exchanged": (lambda c: swap(c, 2, state=digest(666)), "round 3 of session s1 has been changed"),
    "a link exchanged": (lambda c: swap(c, 0, link=digest(666)), "round 1 of session s1 has been changed"),
    "a parent exchanged": (lambda c: swap(c, 2, parent_model=digest(666)), "the round before made"),
    "history rewritten": (forged, "round 3 of session s1 has been changed"),
    "examples moved": (lighter, "round 3 of session s1 has been changed"),
    "a contribution lost": (lambda c: (c[0], c[1][1:]), "round 1 of session s1 counts 3 updates of 6"),
    "a weight exchanged": (lambda c: swap(c, 1, weight=7), "round 2 of session s1 counts 3 updates of 7"),
    "another session": (lambda c: swap(c, 1, session="s2"), "mixed"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_first_broken_round_is_named(name: str):
    breaking, says = BROKEN[name]
    records, contributions = breaking(a_chain())

    with pytest.raises(CorruptionError, match=says):
        verify_chain(records, contributions)


def test_a_backup_that_lacks_the_last_rounds_is_recognised_by_a_link_seen_elsewhere():
    records, contributions = a_chain()
    yesterday = (records[:2], [c for c in contributions if c.round <= 2])
    verify_chain(*yesterday)

    with pytest.raises(CorruptionError, match="ends with round 2"):
        verify_chain(*yesterday, head=records[3].link)
