"""Who a node is on its network: its key, which lies in its work folder, and the access tokens that it gets with it."""

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from hansa.errors import AuthenticationError, ConflictError, ConnectionFailedError, PermissionDeniedError, WireError
from hansa.messages import Signature
from hansa.network.node_keys import NodeKeys, handover
from hansa.wire import channel
from hansa.wire.calls import EnrollRequest, RotateRequest
from hansa.wire.frames import Role
from hansa.wire.node_key import NodeKey
from hansa.wire.tokens import Identity, holder

__all__ = ["NodeIdentity"]

_log = structlog.get_logger(__name__)

_SHARE: Final = 2 / 3
"""Of an access token's time, after which the next one is asked for."""
_PAUSE: Final = 900.0
"""Seconds after which a change of the key is tried again that the network has refused."""


class NodeIdentity:
    """A key of the node's own; the join token makes it known to the network, once."""

    def __init__(self, join_token: str, folder: Path, key_age: float = math.inf) -> None:
        """folder: where the key lies, and is made by the first process; key_age: seconds after which it is changed.

        Raises `AuthenticationError` for no token.
        """
        self.holder: Final[Identity] = holder(join_token)
        self.instance: Final = uuid.uuid4().hex
        """Of this process."""
        self._join_token = join_token
        self._keys = NodeKeys(folder)
        self._key_age = key_age
        self._key: NodeKey | None = None
        self._made_at = 0.0
        self._change_from = 0.0
        """POSIX seconds before which the key is not changed."""
        self._token = ""
        self._renew_at = self._over_at = 0.0
        self._turn = asyncio.Lock()

    async def access(self, dial: Callable[[], Awaitable[channel.Channel]]) -> str:
        """A token that holds now. dial: → a connection to the controller, which is closed here.

        Raises `AuthenticationError` when the network does not know this node (any more), `ConflictError` while another
        process is connected with the same key, `ConnectionFailedError`.
        """
        if self.holder.role is Role.PERSON:
            raise PermissionDeniedError(
                f"{self.holder.name} is a person: a node needs a join token (hansa token create NAME --role client)"
            )
        async with self._turn:
            now = asyncio.get_running_loop().time()
            if now >= self._renew_at:
                try:
                    await self._renew(await dial(), now)
                except ConnectionFailedError:
                    if now >= self._over_at:
                        raise
            return self._token

    def sign(self, statement: bytes) -> Signature:
        """This node's signature over what it hands in; it has access by then."""
        if self._key is None:
            raise ConnectionFailedError("this node has not joined its network yet")
        return self._key.sign(statement)

    def doubt(self) -> bool:
        """A server has refused the token: it is not used again. False: there is none, the controller gave none."""
        had, self._token = bool(self._token), ""
        self._renew_at = self._over_at = 0.0
        return had

    # ── another key ──────────────────────────────────────────────────────────────────────────────────────────────

    def key_is_due(self) -> bool:
        """Whether the key is to be changed: somebody has asked for it, or it is old."""
        now = time.time()
        if self._key is None or now < self._change_from:
            return False
        return self._keys.has_next() or now - self._made_at > self._key_age

    async def change_key(self, dial: Callable[[], Awaitable[channel.Channel]]) -> None:
        """Hand over to another key where that is due, and no stream is open: by a stream's token servers know its key.

        dial: as of `access`. A network that refuses is asked again later. Raises `ConnectionFailedError`.
        """
        async with self._turn:
            if self._key is None or not self.key_is_due():
                return
            await asyncio.to_thread(self._keys.make_next)
            controller = await dial()
            try:
                self._key = await self._handed_over(controller, self._key)
            finally:
                await controller.close()
            self.doubt()

    async def _handed_over(self, controller: channel.Channel, key: NodeKey) -> NodeKey:
        """The key by which the network knows this node, once it was asked to know it by the next one."""
        following = await asyncio.to_thread(self._keys.next)
        if following is None:
            return key
        told = handover(self.holder.project, self.holder.name, key, following, time.time())
        request = RotateRequest(following.public, told.by_former, told.by_key)
        try:
            try:
                await channel.rotate(controller, self._assertion(key), request)
            except AuthenticationError:  # or it is known by the next one already, and the answer was lost
                await channel.access(controller, self._assertion(following))
        except (AuthenticationError, ConflictError, WireError) as error:
            self._change_from = time.time() + _PAUSE
            _log.warning("this node keeps its key", node=self.holder.name, key=key.public, why=str(error))
            return key
        await asyncio.to_thread(self._keys.adopt, told)
        self._made_at = time.time()
        _log.info("this node has another key", node=self.holder.name, former=key.public, key=following.public)
        return following

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _renew(self, controller: channel.Channel, now: float) -> None:
        try:
            key, is_new = (self._key, False) if self._key is not None else await asyncio.to_thread(self._opened)
            if is_new:
                await self._enroll(controller, key)
            elif self._key is None:
                key = await self._handed_over(controller, key)
            try:
                access = await channel.access(controller, self._assertion(key))
            except AuthenticationError:  # not known yet, or no more: the join token may be a newer one
                if is_new:
                    raise
                await self._enroll(controller, key)
                access = await channel.access(controller, self._assertion(key))
        finally:
            await controller.close()
        self._key, self._token = key, access.token
        self._renew_at, self._over_at = now + access.expires_in * _SHARE, now + access.expires_in

    async def _enroll(self, controller: channel.Channel, key: NodeKey) -> None:
        request = EnrollRequest(key.public, key.prove(self._join_token))
        enrolled = await channel.enroll(controller, self._join_token, request)
        _log.info("joined", node=enrolled.node, key=key.public)

    def _assertion(self, key: NodeKey) -> str:
        return key.assertion(self.holder.name, self.holder.project, self.instance)

    def _opened(self) -> tuple[NodeKey, bool]:
        """(the key, whether it was made now)."""
        found = self._keys.current()
        key = found if found is not None else self._keys.make()
        self._made_at = self._keys.made_at()
        return key, found is None
