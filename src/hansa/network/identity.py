"""Who a node is on its network: its key, which lies in its work folder, and the access tokens that it gets with it."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from hansa.errors import AuthenticationError, ConnectionFailedError, InputError, PermissionDeniedError
from hansa.messages import Signature
from hansa.store.disk import explained, make_directory, write_whole
from hansa.wire import channel
from hansa.wire.calls import EnrollRequest
from hansa.wire.frames import Role
from hansa.wire.node_key import NodeKey
from hansa.wire.tokens import Identity, holder

__all__ = ["NodeIdentity", "key_in"]

_log = structlog.get_logger(__name__)

_FILE: Final = "node-key.pem"
_SHARE: Final = 2 / 3
"""Of an access token's time, after which the next one is asked for."""


def key_in(folder: Path) -> str:
    """The public key of the node whose work folder this is; empty: it has none yet. Raises `InputError`."""
    file = folder / _FILE
    return NodeKey.of_pem(file.read_bytes()).public if file.exists() else ""


class NodeIdentity:
    """A key of the node's own; the join token makes it known to the network, once."""

    def __init__(self, join_token: str, folder: Path) -> None:
        """folder: where the key lies, and is made by the first process. Raises `AuthenticationError` for no token."""
        self.holder: Final[Identity] = holder(join_token)
        self.instance: Final = uuid.uuid4().hex
        """Of this process."""
        self._join_token = join_token
        self._file = folder / _FILE
        self._key: NodeKey | None = None
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

    async def _renew(self, controller: channel.Channel, now: float) -> None:
        try:
            key, is_new = (self._key, False) if self._key is not None else await asyncio.to_thread(self._opened)
            if is_new:
                await self._enroll(controller, key)
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
        with explained("keep this node's key in", self._file):
            if self._file.exists():
                try:
                    return NodeKey.of_pem(self._file.read_bytes()), False
                except InputError as error:
                    raise InputError(
                        f"{self._file} cannot be used ({error}): delete it, and join with a new token"
                    ) from error
            key = NodeKey.new()
            make_directory(self._file.parent)
            write_whole(self._file, key.pem)
        return key, True
