"""Nodes: the keys by which clients and combiners are known, the tokens that these keys get, and who holds which name.

A join token makes one key known, once. Who signs with that key gets access tokens for some minutes. All that one
process gets have one grant in common; while that process is connected no other one gets any, and when another one has
got some, or the node is revoked, the grant holds no more: wherever it is still connected, it is dismissed.

A node that makes itself another key hands over to it: the new key takes the place of the former one in one transaction,
with what both have signed of it.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from hansa.errors import AuthenticationError, ConflictError, HansaError, NotFoundError
from hansa.messages import Signature
from hansa.network.controller.audit import SERVER, audit_line
from hansa.network.controller.signing_keys import SigningKeys
from hansa.statements import handover_statement
from hansa.store.completion import completed
from hansa.store.paging import PAGE, every
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import HandoverRecord, NodeRecord, TokenRecord
from hansa.wire import tokens
from hansa.wire.calls import AccessToken, Enrolled, EnrollRequest, RotateRequest
from hansa.wire.frames import Role
from hansa.wire.node_key import ASSERTION_LIFETIME, Assertion, check_proof, checked_public_key, holds, read_assertion
from hansa.wire.tokens import Identity

__all__ = ["Nodes"]

_log = structlog.get_logger(__name__)

_LIFETIME: Final = 900.0
"""Seconds for which an access token holds."""
_REMEMBERED: Final = ASSERTION_LIFETIME + 120.0
"""Seconds for which the id of a node's own token is remembered: longer than it can hold, whatever the clocks say."""


class Nodes:
    """Who has joined, project by project."""

    def __init__(
        self,
        store: MetadataStore,
        keys: SigningKeys,
        here: Callable[[NodeRecord], bool],
        dismiss: Callable[[NodeRecord, str], None],
    ) -> None:
        """keys: those that sign tokens, and did; here: whether a node's process is connected by its grant.

        dismiss: end the stream that a node has by its grant, wherever it ends; and say why.
        """
        self._store = store
        self._key, self._public_key = keys.private, keys.public
        self._here = here
        self._dismiss = dismiss
        self._known: dict[tuple[str, str], NodeRecord] = {}
        self._said: dict[str, float] = {}
        """Ids of nodes' own tokens → until when (seconds of a monotonic clock) they are refused."""
        self._changing = asyncio.Lock()

    async def recall(self, project: str) -> None:
        """Remember who has joined a project: every call of a node is measured by it."""
        async for node in every(self._store, NodeRecord, Query(project)):
            self._known[project, node.name] = node

    # ── joining ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def enroll(self, join_token: str, request: EnrollRequest) -> Enrolled:
        """Make a node's key known, and spend its join token; again with the same key is no change.

        Raises `AuthenticationError` for a token that is spent, revoked or over, and for a key that is not the asker's.
        """
        identity = tokens.verify(self._public_key, join_token, tokens.JOINING)
        check_proof(request.public_key, request.proof, join_token)
        async with self._changing:
            try:
                token = await self._store.get(TokenRecord, identity.project, identity.token_id)
            except NotFoundError as error:
                raise AuthenticationError("this network knows no such join token; ask its operator for one") from error
            before = self._known.get((identity.project, identity.name))
            if token.used_at is not None and (before is None or before.token != token.id):
                before = await self._stored(token)  # it was kept while the store's answer was lost
            flaw = _flaw(token, before, request.public_key)
            if flaw:
                told = audit_line(token.project, token.name, "node.join", token.id, outcome="refused", detail=flaw)
                await self._store.put(told)
                raise AuthenticationError(f"{flaw}; ask the operator for another (hansa token create {token.name})")
            if token.used_at is None:
                await self._join(token, request.public_key, before)
        return Enrolled(identity.name)

    async def _stored(self, token: TokenRecord) -> NodeRecord | None:
        """Whoever has joined with a token, by the store; known from now on."""
        try:
            node = await self._store.get(NodeRecord, token.project, f"{token.project}/{token.name}")
        except NotFoundError:
            return None
        self._known[node.project, node.name] = node
        return node

    async def _join(self, token: TokenRecord, public_key: str, before: NodeRecord | None) -> None:
        now = time.time()
        node = NodeRecord(
            f"{token.project}/{token.name}", token.project, token.name, token.role, public_key, token.id, joined_at=now
        )
        told = audit_line(node.project, node.name, "node.join", token.id, detail=public_key)
        await self._keep(node, replace(token, used_at=now), told)
        if before is not None and before.grant:
            self._dismiss(before, f"{node.name} has joined anew, with another key")

    async def access(self, assertion: str) -> AccessToken:
        """An access token for the node that has signed this.

        Raises `AuthenticationError` where it is not known by that key, or is revoked; `ConflictError` while another
        process that has the same key is connected.
        """
        node, said = self._proven(assertion)
        if node.instance != said.instance:
            async with self._changing:
                node = await self._grant(self._still(node), said.instance)
        token, _ = tokens.issue(
            self._key,
            node.name,
            Role(node.role),
            node.project,
            _LIFETIME,
            grant=node.grant,
            key=node.key,
            former=_former(node),
        )
        return AccessToken(token, _LIFETIME)

    async def rotate(self, assertion: str, request: RotateRequest) -> Enrolled:
        """Put another key in the place of a node's own; the process that is connected alone may do it.

        Raises `AuthenticationError` for a handover that both keys have not signed, or of a key that is not the node's
        (any more); `ConflictError` while another process is connected, or soon after the last change: what the key
        before has signed is on its way for as long as an access token holds.
        """
        node, said = self._proven(assertion)
        statement = handover_statement(node.project, node.name, node.key, checked_public_key(request.public_key))
        by_former, by_key = Signature(node.key, request.by_former), Signature(request.public_key, request.by_key)
        if not holds(by_former, statement) or not holds(by_key, statement):
            raise AuthenticationError(f"{node.name} hands over to a key which both keys have not signed")
        async with self._changing:
            node = self._still(node)
            if _former(node):
                raise ConflictError(f"{node.name} has just changed its key: a key is used for {_LIFETIME:.0f} seconds")
            if node.instance != said.instance:
                node = await self._grant(node, said.instance)
            await self._hand_over(node, request)
        return Enrolled(node.name)

    async def _hand_over(self, node: NodeRecord, request: RotateRequest) -> None:
        """Raises `AuthenticationError` for a key that the node has given up before."""
        mine = Query(node.project, {"node": node.name}, sort="at", limit=PAGE)
        earlier = await self._store.list(HandoverRecord, mine)
        if request.public_key in {node.key, *(each.former for each in earlier.items)}:
            raise AuthenticationError(f"{node.name} hands over to a key that it has had: it needs a fresh one")
        now = time.time()
        handover = HandoverRecord(
            id=f"{node.id}/{earlier.total + 1}",
            project=node.project,
            node=node.name,
            former=node.key,
            key=request.public_key,
            by_former=request.by_former,
            by_key=request.by_key,
            at=now,
        )
        told = audit_line(node.project, node.name, "node.rotate", request.public_key, detail=f"before: {node.key}")
        await self._keep(replace(node, key=request.public_key, former=node.key, rotated_at=now), handover, told)

    def _proven(self, assertion: str) -> tuple[NodeRecord, Assertion]:
        """Who has signed this, just now and with its own key. Raises `AuthenticationError`."""
        said = read_assertion(assertion)
        node = self._known.get((said.project, said.name))
        if node is None:
            raise AuthenticationError(f"{said.name[:100]} has not joined this network: it needs a join token")
        said = read_assertion(assertion, node.key)
        self._never_said_before(said.id)
        if node.revoked:
            raise AuthenticationError(_revoked(node.name))
        return node, said

    def _still(self, proven: NodeRecord) -> NodeRecord:
        """The node now. Raises `AuthenticationError` where another key has taken its place, or it was revoked."""
        node = self._known[proven.project, proven.name]
        if node.revoked:
            raise AuthenticationError(_revoked(node.name))
        if node.key != proven.key:
            raise AuthenticationError(f"{node.name} is known by another key now")
        return node

    async def _grant(self, node: NodeRecord, instance: str) -> NodeRecord:
        """Another process has the key now: what the last one was given holds no more."""
        if node.grant and self._here(node):
            raise ConflictError(
                f"{node.name} is connected already, from another process: stop that one, or let this one join with a "
                "token of its own"
            )
        granted = replace(node, instance=instance, grant=secrets.token_hex(16), granted_at=time.time())
        await self._keep(granted)
        return granted

    def _never_said_before(self, said: str) -> None:
        now = time.monotonic()
        if said in self._said:
            raise AuthenticationError("this node's own token was used before: it holds once")
        for old in [each for each, until in self._said.items() if until <= now]:
            del self._said[old]
        self._said[said] = now + _REMEMBERED

    # ── being known ──────────────────────────────────────────────────────────────────────────────────────────────

    def refusal(self, project: str, name: str, grant: str) -> str:
        """Why a grant holds no more; empty: it holds."""
        node = self._known.get((project, name))
        if node is None:
            return f"{name} has not joined this network"
        if node.revoked:
            return _revoked(name)
        return "" if node.grant == grant else f"another process of {name} has taken its place"

    def keys_of(self, project: str, name: str) -> frozenset[str]:
        """The public keys that a node may sign with; empty: it is none of the network, or was revoked."""
        node = self._known.get((project, name))
        return frozenset({node.key, _former(node)} - {""}) if node is not None and not node.revoked else frozenset()

    def check(self, identity: Identity) -> None:
        """Raise `AuthenticationError` unless the access token of a node holds still."""
        why = self.refusal(identity.project, identity.name, identity.token_id)
        if why:
            raise AuthenticationError(why)

    async def revoke(self, project: str, name: str, by: str = SERVER) -> NodeRecord:
        """Refuse a node from now on: its streams end, and what it is sending is not taken.

        It may join again with a new token. Raises `NotFoundError`.
        """
        async with self._changing:
            node = self._known.get((project, name))
            if node is None:
                raise NotFoundError(f"no node {name!r} has joined project {project!r}; see `hansa node list`")
            revoked = replace(node, revoked=True)
            await self._keep(revoked, audit_line(project, by, "node.revoke", name, detail=node.role))
            self._dismiss(node, _revoked(name))
        return revoked

    async def token_revoked(self, token: TokenRecord, by: str) -> None:
        """With its join token a node is revoked."""
        node = self._known.get((token.project, token.name))
        if node is not None and node.token == token.id and not node.revoked:
            await self.revoke(token.project, token.name, by)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self, node: NodeRecord, *more: object) -> None:
        """Store, and go by what is stored, also when whoever asked is gone meanwhile."""
        await completed(self._kept(node, *more))

    async def _kept(self, node: NodeRecord, *more: object) -> None:
        """After a write that failed, whether it was done is asked."""
        try:
            await self._store.put(node, *more)  # type: ignore[arg-type]
        except HansaError:
            stored = await self._store.get(NodeRecord, node.project, node.id)
            self._known[node.project, node.name] = stored
            if stored != node:
                raise
        self._known[node.project, node.name] = node


def _flaw(token: TokenRecord, node: NodeRecord | None, public_key: str) -> str:
    """Why a join token lets nobody join with this key; empty: it does, or has."""
    if token.revoked:
        return f"the join token of {token.name} was revoked"
    if token.used_at is None:
        return ""
    if node is None or node.token != token.id or node.key != public_key:
        return f"the join token of {token.name} was used already, by another key"
    return _revoked(node.name) if node.revoked else ""


def _former(node: NodeRecord) -> str:
    """The key before, while what it has signed may be on its way; empty: it is worth nothing any more."""
    just = node.rotated_at is not None and time.time() - node.rotated_at < _LIFETIME
    return (node.former or "") if just else ""


def _revoked(name: str) -> str:
    return f"{name} was revoked"
