"""Who is connected below an aggregation server: its own streams, and what is reachable through them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from hansa.errors import ConflictError
from hansa.wire.frames import Hello, Presence, Present, Role, ToNode

__all__ = ["Child", "Children"]


@dataclass(slots=True, eq=False)
class Child:
    """One open stream."""

    name: str
    hello: Hello
    send: Callable[[ToNode], None]
    """Queues a frame; never blocks."""
    close: Callable[[str], None]
    """Ends the stream, with the reason."""
    last_heard: float = 0.0
    """The loop's time of its last frame."""

    @property
    def role(self) -> Role:
        """A client or a combiner."""
        return self.hello.role


@dataclass(slots=True)
class Children:
    """The streams of one server and the names below each; it reports what changes as `Presence`, and does no I/O."""

    server: str
    """The name of the server itself."""
    lease: float
    """Seconds of silence after which a stream counts as lost."""
    streams: dict[str, Child] = field(default_factory=dict)
    _through: dict[str, str] = field(default_factory=dict)
    """Client or combiner anywhere below → the child that leads to it."""
    _known: dict[str, Present] = field(default_factory=dict)

    def join(self, child: Child) -> Presence:
        """A stream has said hello; raises `ConflictError` while another process holds its name."""
        held = self.streams.get(child.name)
        if held is not None:
            silent = child.last_heard - held.last_heard
            if held.hello.instance != child.hello.instance and silent < self.lease:
                raise ConflictError(
                    f"{child.name} is connected already, from another process: stop that one, or give this one a "
                    f"token of its own (a name is free {self.lease:.0f} seconds after its process falls silent)"
                )
            held.close("the same node has connected again")
        self.streams[child.name] = child
        address = {"address": child.hello.address} if child.role is Role.COMBINER else {}
        version = {"version": child.hello.version}
        present = Present(child.name, {**child.hello.labels, **version, **address}, self.server)
        self._through[child.name] = child.name
        self._known[child.name] = present
        return Presence(combiners=(present,)) if child.role is Role.COMBINER else Presence(joined=(present,))

    def leave(self, child: Child) -> Presence | None:
        """A stream has ended: everything behind it is gone. None when a newer stream has taken its place."""
        if self.streams.get(child.name) is not child:
            return None
        del self.streams[child.name]
        gone = tuple(name for name, through in self._through.items() if through == child.name)
        for name in gone:
            del self._through[name]
            del self._known[name]
        return Presence(left=gone)

    def relay(self, child: Child, presence: Presence) -> Presence:
        """What a combiner below says of its own children; returns what the parent of this server must know of it."""
        for present in (*presence.combiners, *presence.joined):
            self._through[present.client] = child.name
            self._known[present.client] = present
        gone = tuple(name for name in presence.left if self._through.get(name) == child.name)
        for name in gone:
            del self._through[name]
            del self._known[name]
        return Presence(presence.joined, gone, presence.combiners)

    def everyone(self) -> Presence:
        """All that is below now: what a combiner tells a parent that it has just joined."""
        combiners = {name for name, present in self._known.items() if "address" in present.labels}
        return Presence(
            joined=tuple(present for name, present in self._known.items() if name not in combiners),
            combiners=tuple(self._known[name] for name in self._known if name in combiners),
        )

    def route(self, names: Iterable[str]) -> Mapping[Child, tuple[str, ...]]:
        """The streams that lead to these names, each with its names; names that are not below are left out."""
        routes: dict[Child, tuple[str, ...]] = {}
        for name in names:
            child = self.streams.get(self._through.get(name, ""))
            if child is not None:
                routes[child] = (*routes.get(child, ()), name)
        return routes

    def may_lead_to(self, child: Child, name: str) -> bool:
        """Whether this stream is the way to a name below, or was the last way to one that has gone."""
        return self._through.get(name, child.name) == child.name

    def silent_since(self, now: float) -> list[Child]:
        """Streams whose lease is over."""
        return [child for child in self.streams.values() if now - child.last_heard > self.lease]
