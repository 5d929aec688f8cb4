"""Who is connected below an aggregation server: its own streams, and what is reachable through them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from hansa.errors import ConflictError, PermissionDeniedError
from hansa.wire.frames import CENTRAL, Hello, Presence, Present, Role, ToNode

__all__ = ["Child", "Children"]

_OWN_LABELS = frozenset({"address", "version"})
"""Labels that say where a combiner is reached and what a node runs: a node cannot set them as it likes."""

_RESERVED = frozenset({CENTRAL, "root"})
"""Names of the controller's own; see `Controller.issue_token`."""


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
    grant: str = ""
    """Of the token that it attached with."""
    keys: frozenset[str] = frozenset()
    """What it signs with, as its token says; empty: the token says nothing of it."""

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
    _ways: dict[str, dict[str, Present]] = field(default_factory=dict)
    """Client or combiner anywhere below → the children that lead to it, each with what it says of it; the newest last.

    More than one where a server has not noticed yet that a node has left it, and may say so long after that node has
    come by another way: then the other way stands.
    """
    _combiners: set[str] = field(default_factory=set)
    """Who of the known is a combiner: by role, never by what a label says."""

    def held(self, child: Child) -> Child | None:
        """The stream that a new one of the same name replaces; raises `ConflictError` for another living process."""
        held = self.streams.get(child.name)
        if held is not None and held.hello.instance != child.hello.instance:
            silent = child.last_heard - held.last_heard
            if silent < self.lease:
                raise ConflictError(
                    f"{child.name} is connected already, from another process: stop that one, or give this one a "
                    f"token of its own (a name is free {self.lease:.0f} seconds after its process falls silent)"
                )
        return held

    def join(self, child: Child) -> Presence:
        """A stream has said hello. Whoever was known by another way is reported as left, and as joined."""
        is_combiner = child.role is Role.COMBINER
        labels = {key: value for key, value in child.hello.labels.items() if key not in _OWN_LABELS}
        labels |= {"version": child.hello.version} | ({"address": child.hello.address} if is_combiner else {})
        present = Present(child.name, labels, self.server, child.grant)
        left = self._moving((present,))
        self.streams[child.name] = child
        self._remember(child, (present,), is_combiner)
        return Presence((), left, (present,)) if is_combiner else Presence((present,), left)

    def leave(self, child: Child) -> Presence | None:
        """A stream has ended, and with it all that leads through it. None when a newer stream has taken its place."""
        if self.streams.get(child.name) is not child:
            return None
        del self.streams[child.name]
        return self._without(child, list(self._ways))

    def relay(self, child: Child, presence: Presence) -> Presence:
        """What a combiner below says of its own children; returns what the parent of this server must know of it.

        Raises `PermissionDeniedError` when it speaks of itself or of those above it.
        """
        came = (*presence.combiners, *presence.joined)
        odd = {present.client for present in came} & {child.name, self.server, *_RESERVED}
        if odd:
            raise PermissionDeniedError(f"{child.name} cannot have {sorted(odd)} below it")
        gone = self._without(child, presence.left)
        moved = self._moving(came)
        self._remember(child, presence.combiners, are_combiners=True)
        self._remember(child, presence.joined, are_combiners=False)
        left = tuple(dict.fromkeys((*gone.left, *moved)))
        return Presence((*gone.joined, *presence.joined), left, (*gone.combiners, *presence.combiners))

    def everyone(self) -> Presence:
        """All that is below now: what a combiner tells a parent that it has just joined."""
        return Presence(
            joined=tuple(self._newest(name) for name in self._ways if name not in self._combiners),
            combiners=tuple(self._newest(name) for name in self._ways if name in self._combiners),
        )

    def route(self, names: Iterable[str]) -> Mapping[Child, tuple[str, ...]]:
        """The streams that lead to these names, each with its names; names that are not below are left out."""
        routes: dict[Child, list[str]] = {}
        for name in names:
            child = self.streams.get(self._way(name, ""))
            if child is not None:
                routes.setdefault(child, []).append(name)
        return {child: tuple(below) for child, below in routes.items()}

    def may_lead_to(self, child: Child, name: str) -> bool:
        """Whether this stream is the way to a name below, or was the last way to one that has gone."""
        return self._way(name, child.name) == child.name

    def silent_since(self, now: float) -> list[Child]:
        """Streams whose lease is over."""
        return [child for child in self.streams.values() if now - child.last_heard > self.lease]

    def _way(self, name: str, otherwise: str) -> str:
        """The newest way to a name, or another one where there is none."""
        return next(reversed(self._ways.get(name, {otherwise: None})))

    def _newest(self, name: str) -> Present:
        """What is said of it by the newest way."""
        return self._ways[name][self._way(name, "")]

    def _moving(self, came: Iterable[Present]) -> tuple[str, ...]:
        """Those who come by a new way and are known by another."""
        return tuple(present.client for present in came if present.client in self._ways)

    def _remember(self, child: Child, came: Iterable[Present], are_combiners: bool) -> None:  # noqa: FBT001 - by name
        for present in came:
            ways = self._ways.setdefault(present.client, {})
            ways.pop(child.name, None)
            ways[child.name] = present
            (self._combiners.add if are_combiners else self._combiners.discard)(present.client)

    def _without(self, child: Child, names: Iterable[str]) -> Presence:
        """These are no longer behind a child: they have left, or are where they came from by another way."""
        left: list[str] = []
        back: list[Present] = []
        for name in names:
            ways = self._ways.get(name, {})
            newest = self._way(name, "")
            if ways.pop(child.name, None) is None or newest != child.name:
                continue
            left.append(name)
            if ways:
                back.append(self._newest(name))
            else:
                del self._ways[name]
        joined = tuple(present for present in back if present.client not in self._combiners)
        combiners = tuple(present for present in back if present.client in self._combiners)
        self._combiners.difference_update(name for name in left if name not in self._ways)
        return Presence(joined, tuple(left), combiners)
