"""Nodes that have joined, for tests that call servers as one of them and need no process of it."""

import secrets

from hansa.network.controller.controller import Controller
from hansa.wire.calls import EnrollRequest
from hansa.wire.frames import Role
from hansa.wire.node_key import NodeKey

__all__ = ["access_token"]


async def access_token(controller: Controller, project: str, name: str, role: Role = Role.CLIENT) -> str:
    """What a node of this name carries in every call, once it has joined with a key of its own."""
    token, _ = await controller.issue_token(project, name, role)
    key = NodeKey.new()
    await controller.nodes.enroll(token, EnrollRequest(key.public, key.prove(token)))
    return (await controller.nodes.access(key.assertion(name, project, secrets.token_hex(16)))).token
