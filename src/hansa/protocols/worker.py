"""A worker: its number, whom it may talk to, and its two verbs.

A program is an async function of a worker. It sends without waiting, and it receives from a sender that it names:

```python
async def program(worker: Worker) -> Greeting:
    worker.broadcast(Greeting(f"I am {worker.number}"))
    greetings = await worker.gather(Greeting)
    return greetings[min(greetings)]
```

Nothing receives from whoever comes first. So each pair of workers is a queue of its own, and what a program computes
depends on no timing, wherever its workers run (Kahn, "The semantics of a simple language for parallel programming",
1974).
"""

from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
from blake3 import blake3

from hansa.errors import InputError
from hansa.protocols.message import message, name_of, schema_of
from hansa.protocols.topology import AnyTopology
from hansa.statements import text

__all__ = ["Gone", "Program", "Receive", "Worker"]

M = TypeVar("M")
N = TypeVar("N")


@message("program.gone")
@dataclass(frozen=True, slots=True)
class Gone:
    """In place of a message whose sender stays away, to a worker that names it among what it can receive.

    On a network alone, and decided once: a worker that is run again is told the same. Its code has failed, or nothing
    was heard of it for the session's deadline. What the sender says in this place when it is back is not heard; what it
    says next is the next message.
    """


def _never(_receiver: int, _message: Any) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Receive:
    """What a worker waits for: what a program's coroutine yields to the runtime, and is sent the message for."""

    sender: int
    kinds: tuple[type[Any], ...]

    def __await__(self) -> Generator["Receive", Any, Any]:
        return (yield self)

    @property
    def dispensable(self) -> bool:
        """Whether it goes on where the sender stays away."""
        return Gone in self.kinds

    def __str__(self) -> str:
        return f"{' or '.join(map(name_of, self.kinds))} from worker {self.sender}"


class Worker:
    """One of n workers, as its program sees it; a runtime makes it."""

    def __init__(
        self,
        number: int,
        topology: AnyTopology,
        post: Callable[[Sequence[int], Any], None],
        draw: Callable[..., np.random.Generator],
        settings: Mapping[str, str] | None = None,
        *,
        secret: Callable[[], bytes],
        has_said: Callable[[int, Any], bool] = _never,
        tell: Callable[[BaseException, str], None],
    ) -> None:
        """post: delivers a message to workers; draw: random numbers for a purpose and keys, from the run's seed.

        settings: what the owner of the machine has set there; None: nothing. secret: 32 bytes of this worker's own,
        the same whenever they are asked for. has_said, tell: see the methods.
        """
        self.number = number
        """From 0."""
        self.topology = topology
        self.settings: Mapping[str, str] = dict(settings or {})
        """What the owner of its data has set on the network, for example their path; empty in one process."""
        self._post = post
        self._draw = draw
        self._secret = secret
        self._has_said = has_said
        self._tell = tell

    @property
    def size(self) -> int:
        """How many workers there are."""
        return self.topology.size

    @property
    def receivers(self) -> tuple[int, ...]:
        """Whom it may send to, ascending."""
        return self.topology.receivers[self.number]

    @property
    def senders(self) -> tuple[int, ...]:
        """Who may send to it, ascending."""
        return self.topology.senders[self.number]

    def send(self, receiver: int, message: Any) -> None:
        """Send a registered message, and go on; raises `InputError` where the receiver is no neighbour."""
        self.broadcast(message, (receiver,))

    def broadcast(self, message: Any, receivers: Iterable[int] | None = None) -> None:
        """Send to each receiver; by default to all there are. The same as one `send` for each."""
        schema_of(type(message))
        chosen = self.receivers if receivers is None else tuple(receivers)
        for receiver in chosen:
            self._check(receiver, self.receivers, f"worker {self.number} sends to worker {receiver}", "receivers")
        self._post(chosen, message)

    @overload
    async def receive(self, sender: int, kind: type[M], /) -> M: ...
    @overload
    async def receive(self, sender: int, kind: type[M], other: type[N], /) -> M | N: ...
    @overload
    async def receive(self, sender: int, /, *kinds: type[Any]) -> Any: ...
    async def receive(self, sender: int, /, *kinds: type[Any]) -> Any:
        """The next message from a sender, which must be of one of these kinds; waits for it.

        With `Gone` among the kinds, not for ever on a network: it comes where the sender is silent for the session's
        deadline.

        Raises `InputError` where the sender is no neighbour or no kind is named, `RunFailedError` where it has sent
        something else.
        """
        self._check(sender, self.senders, f"worker {self.number} receives from worker {sender}", "senders")
        if not kinds:
            raise InputError(f"worker {self.number} receives no kind of message: await worker.receive({sender}, Kind)")
        for kind in kinds:
            schema_of(kind)
        return await Receive(sender, kinds)

    async def gather(self, kind: type[M], senders: Iterable[int] | None = None) -> dict[int, M]:
        """The next message from each sender, by sender, ascending; by default from all there are."""
        return {s: await self.receive(s, kind) for s in (self.senders if senders is None else sorted(senders))}

    def rng(self, purpose: str, *keys: str | int) -> np.random.Generator:
        """Random numbers of its own for a purpose and its keys, the same whenever they are asked for."""
        return self._draw(purpose, *keys, self.number)

    def shared_rng(self, purpose: str, *keys: str | int) -> np.random.Generator:
        """Random numbers that every worker finds the same, for example to draw the first model with."""
        return self._draw(purpose, *keys)

    def secret(self, purpose: str, *keys: str | int) -> bytes:
        """32 random bytes for a purpose and its keys, which only this worker's machine knows: no seed tells them.

        They are the same whenever they are asked for in one run of the program, also by a party of a network that is
        run again; two runs have others.
        """
        return blake3(b"".join(text(str(each)) for each in (purpose, *keys)), key=self._secret()).digest()

    def has_said(self, receiver: int, message: Any) -> bool:
        """Whether an earlier run of this worker has sent just this next: what it met need not be met again.

        So a failure, which a program cannot compute, is said again. On a network alone, once it has asked for a secret.
        """
        return self._has_said(receiver, message)

    def tell(self, error: BaseException, what: str) -> None:
        """Tell people of something that has failed, and that the program goes on without. what: is done without."""
        self._tell(error, what)

    def _check(self, other: int, neighbours: tuple[int, ...], what: str, role: str) -> None:
        if other not in neighbours:
            raise InputError(
                f"{what}, who is no neighbour in {self.topology.name}: the {role} of worker {self.number} are "
                f"{', '.join(map(str, neighbours[:12])) or 'none'}{' …' * (len(neighbours) > 12)}"  # noqa: PLR2004
            )


Program: TypeAlias = Callable[[Worker], Coroutine[Any, Any, Any]]
"""What each worker does; it returns a registered message, its result, or None."""
