"""The gRPC face of programs: letters between their parties, each call bound to an identity."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

from hansa.errors import ConnectionFailedError, PermissionDeniedError
from hansa.network.controller.conversation import Conversation
from hansa.wire import chunks, service
from hansa.wire.frames import Awaited, Letter, Role
from hansa.wire.service import Authenticate
from hansa.wire.tokens import Identity

__all__ = ["RelayService"]

_MOST_CALLS: Final = 128
"""That one client may have under way: one for each party that it writes to, and one that waits; more come again."""


class RelayService:
    """Serves the parties of every session that runs."""

    def __init__(
        self, conversation: Callable[[Identity, str], Awaitable[Conversation]], authenticate: Authenticate
    ) -> None:
        """conversation: (identity, session) → what is said in it, in the identity's own project."""
        self._conversation = conversation
        self._authenticate = authenticate
        self._calls: Counter[str] = Counter()

    def handler(self) -> Any:
        """For `service.create_server`."""
        return service.relay_handler(self._send, self._receive, self._admitted)

    async def _admitted(self, token: str) -> Identity:
        identity = await self._authenticate(token)
        if identity.role is not Role.CLIENT:
            raise PermissionDeniedError(f"{identity.name} is a {identity.role.value}: letters are of clients")
        return identity

    async def _send(self, identity: Identity, letter: Letter, pieces: AsyncIterator[tuple[int, memoryview]]) -> int:
        with self._calling(identity):
            conversation = await self._conversation(identity, letter.key.run)
            return await conversation.send(identity.name, letter, pieces)

    async def _receive(self, identity: Identity, awaited: Awaited) -> AsyncGenerator[bytes, None]:
        with self._calling(identity):
            conversation = await self._conversation(identity, awaited.key.run)
            offset = 0
            async with aclosing(conversation.receive(identity.name, awaited)) as pieces:
                async for piece in pieces:
                    yield chunks.frame(offset, piece)
                    offset += len(piece)

    @contextmanager
    def _calling(self, identity: Identity) -> Iterator[None]:
        if self._calls[identity.token_id] >= _MOST_CALLS:
            raise ConnectionFailedError(f"{identity.name} has {_MOST_CALLS} calls under way; try again later")
        self._calls[identity.token_id] += 1
        try:
            yield
        finally:
            self._calls -= Counter((identity.token_id,))
