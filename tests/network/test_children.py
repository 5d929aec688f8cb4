"""Who is below a server, when what it is told arrives late or out of date."""

from hansa.network.combiner.children import Child, Children
from hansa.wire.frames import Hello, Presence, Present, Role


def child(name: str, role: Role = Role.CLIENT) -> Child:
    address = f"{name}:1" if role is Role.COMBINER else ""
    return Child(name, Hello(role, f"process of {name}", "0", address=address), lambda _frame: None, lambda _why: None)


def below(children: Children, name: str) -> list[str]:
    return [each.name for each in children.route([name])]


def test_a_client_that_came_here_stays_when_a_server_that_it_has_left_says_so_late():
    children = Children("root", 15.0)
    west, ann = child("west", Role.COMBINER), child("ann")
    children.join(west)
    children.join(ann)
    stale = Present("ann", {}, "west")
    told = children.relay(west, Presence(joined=(stale,)))  # west has been away, and has not missed ann yet
    assert (told.left, told.joined) == (("ann",), (stale,))

    told = children.relay(west, Presence(left=("ann",)))

    assert told.left == ("ann",)
    assert [(present.client, present.combiner) for present in told.joined] == [("ann", "root")]
    assert below(children, "ann") == ["ann"]


def test_a_client_is_where_it_came_last_and_an_older_way_that_ends_is_no_news():
    children = Children("root", 15.0)
    west, east = child("west", Role.COMBINER), child("east", Role.COMBINER)
    children.join(west)
    children.join(east)
    children.relay(west, Presence(joined=(Present("ann", {}, "west"),)))
    children.relay(east, Presence(joined=(Present("ann", {}, "east"),)))

    assert children.relay(west, Presence(left=("ann",))) == Presence()
    assert below(children, "ann") == ["east"]

    gone = children.leave(east)
    assert gone is not None
    assert gone.left == ("east", "ann")
    assert children.everyone().joined == ()


def test_with_a_server_all_who_were_behind_it_alone_are_gone():
    children = Children("root", 15.0)
    west, east = child("west", Role.COMBINER), child("east", Role.COMBINER)
    children.join(west)
    children.join(east)
    children.relay(west, Presence(joined=tuple(Present(name, {}, "west") for name in ("ann", "bob"))))
    children.relay(east, Presence(joined=(Present("bob", {}, "east"),)))

    gone = children.leave(west)

    assert gone is not None
    assert gone.left == ("west", "ann")
    assert [present.client for present in children.everyone().joined] == ["bob"]
