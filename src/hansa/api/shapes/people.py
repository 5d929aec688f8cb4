"""People, the tokens that they and nodes have, and who did what."""

from pydantic import Field

from hansa.api.shapes.answer import Shape
from hansa.store.records import ProjectRole
from hansa.wire.frames import Role

__all__ = ["AuditShape", "IssuedTokenShape", "LoginCodeShape", "MeShape", "MemberShape", "TokenShape", "UserShape"]


class UserShape(Shape):
    """A person who may log in."""

    name: str = Field(examples=["ada"])
    created_at: float
    admin: bool
    """Whether they are a site administrator, who may do everything in every project."""
    disabled: bool
    password: bool
    """Whether they have one."""
    subject: str | None = Field(examples=["https://id.example.org#248289761001"])
    """Whom an OpenID provider knows them as: issuer#subject; null: they do not log in by one."""


class MemberShape(Shape):
    """A person in a project."""

    id: str = Field(examples=["ada"])
    """The user's name."""
    project: str
    role: ProjectRole
    created_at: float
    removed: bool


class MeShape(Shape):
    """Whom the server takes the caller for."""

    name: str
    role: Role
    project: str
    token_id: str
    admin: bool
    """Whether they are a site administrator, by a token that is not bounded."""
    roles: dict[str, str] = Field(examples=[{"cardiology": "owner"}])
    """Of a person: project → what they are there."""
    may: dict[str, list[str]] = Field(examples=[{"cardiology": ["read", "run"]}])
    """Of a person: project → what they may do there."""


class TokenShape(Shape):
    """A token that was issued; the token itself is not kept."""

    id: str
    project: str
    name: str
    """The node's identity; of a person's token what it is called."""
    role: str
    """client, combiner; of a person's token the role that bounds it, or person: all that they may do."""
    created_at: float
    expires_at: float | None
    revoked: bool
    account: str | None
    """The person that it acts for; null: a node's."""
    used_at: float | None
    """When a node joined with it: it is spent then."""


class IssuedTokenShape(Shape):
    """A new token."""

    token: str
    """Shown this once; empty where a browser keeps it in a cookie."""
    record: TokenShape


class LoginCodeShape(Shape):
    """A code to log in with, once."""

    code: str
    """Shown this once."""
    expires_at: float


class AuditShape(Shape):
    """Who did what: a line that is chained to the one before it."""

    id: str
    project: str
    """Empty: it concerns no project, or one that the actor does not know."""
    number: int
    """From 1, without a gap."""
    at: float
    actor: str
    """The user or the node; "hansa": the server by itself."""
    action: str = Field(examples=["member.put"])
    target: str
    """What it was done to."""
    outcome: str
    """done, failed or refused"""
    detail: str
    link: str
    """The hash over the line and the link before it."""
