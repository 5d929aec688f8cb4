"""Where a node that asks is sent."""

from collections import Counter

import pytest

from hansa.errors import ConflictError, NotFoundError, PermissionDeniedError
from hansa.network.controller.balancers import by_label, least_loaded
from hansa.network.controller.directory import Directory
from hansa.wire.frames import ROOT, Presence, Present, Role


def directory(
    *combiners: str, parents: dict[str, str] | None = None, labels: dict[str, str] | None = None
) -> Directory:
    made = Directory("root:1", by_label if labels else least_loaded)
    for name in combiners:
        site = {"site": labels[name]} if labels else {}
        present = Present(name, {"address": f"{name}:1", **site}, (parents or {}).get(name, ROOT))
        made.apply(Presence(combiners=(present,)))
    return made


def ask(made: Directory, name: str, preferred: str = "", now: float = 0.0, **labels: str) -> str:
    return made.assign(name, Role.CLIENT, preferred, labels, now).name


def test_without_combiners_a_client_is_sent_to_the_root() -> None:
    assert directory().assign("ward", Role.CLIENT, "", {}, 0).address == "root:1"


def test_a_crowd_that_asks_at_once_is_spread_before_anybody_has_come() -> None:
    made = directory("a", "b", "c")
    assert Counter(ask(made, f"client-{i}") for i in range(30)) == {"a": 10, "b": 10, "c": 10}


def test_who_asks_twice_counts_once() -> None:
    made = directory("a", "b")
    for _ in range(5):
        ask(made, "restless")
    assert Counter(ask(made, f"client-{i}") for i in range(9)) in ({"a": 5, "b": 4}, {"a": 4, "b": 5})


def test_who_asks_again_at_once_is_sent_to_the_same_server() -> None:
    """It has not heard the answer, perhaps; its own place does not count against the server that has it."""
    made = directory("a", "b")
    made.apply(Presence(joined=(Present("client-0", {}, "a"),)))
    assert [ask(made, "restless") for _ in range(2)] == ["b", "b"]


def test_who_was_sent_and_never_came_is_forgotten() -> None:
    made = directory("a", "b")
    for i in range(4):
        ask(made, f"phantom-{i}", preferred="a")
    assert ask(made, "early", now=1) == "b"
    assert Counter(ask(made, f"client-{i}", now=100) for i in range(4)) == {"a": 2, "b": 2}


def test_who_came_elsewhere_than_it_was_sent_counts_where_it_is() -> None:
    made = directory("a", "b")
    assert ask(made, "ward", preferred="a") == "a"
    made.apply(Presence(joined=(Present("ward", {}, "b"),)))
    assert ask(made, "next") == "a"


def test_who_left_counts_no_longer() -> None:
    made = directory("a", "b")
    for i in range(3):
        made.apply(Presence(joined=(Present(f"client-{i}", {}, "a"),)))
    made.apply(Presence(left=("client-0", "client-1", "client-2")))
    assert ask(made, "next") == "a"


def test_labels_decide_and_load_among_equals() -> None:
    made = directory("a", "b", "c", labels={"a": "north", "b": "south", "c": "south"})
    assert [ask(made, f"client-{i}", site="south") for i in range(4)] == ["b", "c", "b", "c"]
    assert ask(made, "northerner", site="north") == "a"
    assert ask(made, "stranger", site="west") == "a"


def test_a_preference_is_honoured_while_its_server_is_there() -> None:
    made = directory("a", "b")
    assert [ask(made, f"client-{i}", preferred="b") for i in range(3)] == ["b"] * 3
    made.apply(Presence(left=("b",)))
    assert ask(made, "client-0", preferred="b") == "a"


def test_three_tiers_take_clients_at_their_leaves() -> None:
    made = directory("north", "n1", "n2", "s1", parents={"n1": "north", "n2": "north"})
    assert Counter(ask(made, f"client-{i}") for i in range(6)) == {"n1": 2, "n2": 2, "s1": 2}
    assert ask(made, "ward", preferred="north") == "north"


@pytest.mark.parametrize(("name", "parent"), [("a", "a"), ("a", "b"), ("a", "c")])
def test_a_combiner_cannot_hang_below_itself(name: str, parent: str) -> None:
    made = directory("a", "b", "c", parents={"b": "a", "c": "b"})
    with pytest.raises(ConflictError, match="choose another parent"):
        made.assign(name, Role.COMBINER, parent, {}, 0)


def test_a_combiner_is_no_load_and_waits_for_its_parent() -> None:
    made = directory("a", "b")
    assert made.assign("c", Role.COMBINER, "a", {}, 0).name == "a"
    assert made.assign("d", Role.COMBINER, "", {}, 0).name == ROOT
    assert ask(made, "ward") == "a"
    with pytest.raises(NotFoundError, match="start it first"):
        made.assign("e", Role.COMBINER, "nowhere", {}, 0)


def test_an_operator_is_sent_nowhere() -> None:
    with pytest.raises(PermissionDeniedError, match="only clients and combiners"):
        directory().assign("boss", Role.PERSON, "", {}, 0)


# ── servers that a client does not reach, and clients that are not where they belong ─────────────────────────────────


def joined(made: Directory, client: str, combiner: str) -> None:
    made.apply(Presence(joined=(Present(client, {}, combiner),)))


def test_who_does_not_get_to_its_server_is_sent_to_another() -> None:
    made = directory("a", "b", labels={"a": "north", "b": "south"})
    assert [ask(made, "ward", now=now, site="north") for now in (0, 25, 50, 75)] == ["a", "a", "b", "b"]


def test_a_preferred_server_that_cannot_be_reached_is_preferred_no_more_until_it_comes_anew() -> None:
    made = directory("a", "b")
    assert [ask(made, "ward", preferred="b", now=now) for now in (0, 25, 50)] == ["b", "b", "a"]
    joined(made, "ward", "a")
    assert ask(made, "ward", preferred="b", now=600) == "a"
    made.apply(Presence(left=("b",)))
    made.apply(Presence(combiners=(Present("b", {"address": "b:1"}, ROOT),)))
    assert ask(made, "ward", preferred="b", now=601) == "b"


def test_who_reaches_no_combiner_is_sent_to_the_root_and_then_begins_anew() -> None:
    made = directory("a")
    assert [ask(made, "ward", now=now) for now in range(7)] == ["a", "a", ROOT, ROOT, ROOT, "a", "a"]


def test_who_asks_again_because_its_server_has_gone_has_not_asked_in_vain() -> None:
    made = directory("a", "b")
    for now in range(4):
        assert ask(made, "ward", preferred="a", now=now) == "a"
        joined(made, "ward", "a")


def test_clients_at_the_root_are_strays_once_there_is_a_combiner() -> None:
    made = directory()
    for name, preferred in (("ward", ""), ("fond", ROOT)):
        assert ask(made, name, preferred=preferred) == ROOT
        joined(made, name, ROOT)
    joined(made, "guest", ROOT)  # of another system: it has not asked
    assert made.strays(0) == []

    made.apply(Presence(combiners=(Present("a", {"address": "a:1"}, ROOT),)))
    assert made.strays(0) == ["ward"]


def test_who_does_not_reach_the_only_combiner_is_no_stray() -> None:
    made = directory("a")
    assert [ask(made, "ward", now=now) for now in (0, 1, 2)] == ["a", "a", ROOT]
    joined(made, "ward", ROOT)
    assert made.strays(3) == []


# ── clients below one combiner that another would have now ───────────────────────────────────────────────────────────


def levelled(made: Directory, clients: dict[str, str], preferred: str = "", **labels: str) -> list[str]:
    """Who is misplaced of clients that have asked and came to these servers, before all combiners were there."""
    for name, server in clients.items():
        ask(made, name, preferred=preferred, **labels)
        made.apply(Presence(joined=(Present(name, labels, server),)))
    return made.misplaced(0)


def test_a_combiner_that_is_back_gets_its_share_and_no_more() -> None:
    clients = {f"client-{i}": "b" for i in range(5)}
    assert levelled(directory("a", "b"), clients) == ["client-0", "client-1"]
    assert levelled(directory("a", "b", "c", "d"), clients) == ["client-0", "client-1", "client-2"]


@pytest.mark.parametrize("servers", ["ab", "ba"])
def test_nobody_goes_for_a_difference_of_one(servers: str) -> None:
    more, fewer = servers
    assert levelled(directory("a", "b"), {"x": more, "y": more, "z": fewer}) == []
    assert levelled(directory("a", "b"), {"x": more}) == []
    assert levelled(directory("a", "b"), {"x": more, "y": more}) == ["x"]


def test_those_at_the_root_are_placed_first() -> None:
    assert levelled(directory("a", "b"), {"x": "a", "y": "a", "at-root": ROOT, "too": ROOT}) == []


def test_a_preference_and_labels_count_whatever_the_load() -> None:
    clients = {"x": "a", "y": "a"}
    assert levelled(directory("a", "b"), clients, preferred="a") == []
    assert levelled(directory("a", "b"), {**clients, "z": "b"}, preferred="b") == ["x", "y"]
    labels = {"a": "north", "b": "south"}
    assert levelled(directory("a", "b", labels=labels), {**clients, "z": "b"}, site="south") == ["x", "y"]
    assert levelled(directory("a", "b", labels=labels), clients, site="north") == []


def test_clients_go_down_to_a_combiner_that_came_below_theirs() -> None:
    assert levelled(directory("a", "leaf", parents={"leaf": "a"}), {"x": "a"}) == ["x"]


def test_who_has_not_asked_this_controller_stays() -> None:
    made = directory("a", "b")
    for name in "xyz":
        joined(made, name, "a")
    assert made.misplaced(0) == []
