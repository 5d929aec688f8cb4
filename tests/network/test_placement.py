"""Who is sent on to another server, when, and how often."""

from types import SimpleNamespace

import pytest

from hansa.network.controller import placement
from hansa.network.controller.balancers import Balancer, least_loaded
from hansa.network.controller.directory import Directory
from hansa.network.controller.placement import Placement
from hansa.wire.frames import ROOT, Presence, Present, Role, SendOn


class Network:
    """Four clients below "a", and "b", which has come; who is sent on is there at once, where it is sent."""

    def __init__(self, balancer: Balancer = least_loaded) -> None:
        self.directory = Directory("root:1", least_loaded)
        self.sent: list[str] = []
        self.busy: set[str] = set()
        hub = SimpleNamespace(children=SimpleNamespace(lease=0.0), receive_from_parent=self._send_on)
        self.placement = Placement(self.directory, hub, self.busy.__contains__)  # type: ignore[arg-type]
        self.told(combiners=("a",))
        for number in range(4):
            self._come(f"client-{number}")
        self.directory.balancer = balancer
        self.told(combiners=("b",))

    def told(self, combiners: tuple[str, ...] = (), left: tuple[str, ...] = ()) -> None:
        came = tuple(Present(name, {"address": f"{name}:1"}, ROOT) for name in combiners)
        self._told(Presence((), left, came))

    def _send_on(self, frame: SendOn) -> None:
        self.sent.append(frame.client)
        self._come(frame.client)

    def _come(self, client: str) -> None:
        server = self.directory.assign(client, Role.CLIENT, "", {}, 0)
        self._told(Presence((Present(client, {}, server.name),)))

    def _told(self, presence: Presence) -> None:
        self.directory.apply(presence)
        self.placement.heard(presence)


async def test_who_is_free_goes_and_the_others_once_they_are() -> None:
    made = Network()
    made.busy.add("client-0")
    await made.placement.settled()
    assert made.sent == ["client-1"]
    made.busy.clear()
    await made.placement.settled()
    assert made.sent == ["client-1", "client-0"]
    await made.placement.settled()
    assert sorted(present.combiner for present in made.directory.clients.values()) == ["a", "a", "b", "b"]


async def test_nobody_goes_while_more_may_come_or_after_one_has_gone() -> None:
    made = Network()
    made.placement._due = float("inf")
    await made.placement.settled()
    made.placement._due = 0.0
    made.busy.update(made.directory.clients)
    await made.placement.settled()  # it is found who should go, and nobody is free
    made.told(left=("b",))
    made.busy.clear()
    await made.placement.settled()
    assert made.sent == []


async def test_a_balancer_that_fails_leaves_clients_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(placement._log, "error", lambda event, **_: said.append(event))

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    made = Network(fails)  # type: ignore[arg-type]
    await made.placement.settled()
    assert (made.sent, said) == ([], ["the balancer has failed, and clients stay where they are"])


async def test_a_balancer_that_draws_lots_moves_each_client_at_most_once() -> None:
    turns = iter(range(10**6))
    made = Network(lambda servers, _: servers[next(turns) % len(servers)])
    for _ in range(5):
        await made.placement.settled()
    assert len(made.sent) == len(set(made.sent))
