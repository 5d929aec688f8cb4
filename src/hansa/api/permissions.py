"""Who may do what: one table, which the guard reads and the documentation shows.

A route names its permission when it is added; the permission names the roles that have it. Site administrators have
every permission in every project, and are not named.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from hansa.store.records import ProjectRole
from hansa.wire.frames import Role

__all__ = ["ROLES", "Permission", "allows", "covered", "holders"]

Holder: TypeAlias = Role | ProjectRole

_MEMBERS: Final = frozenset(ProjectRole)
_WORKERS: Final = frozenset({ProjectRole.OWNER, ProjectRole.MAINTAINER, ProjectRole.DATA_SCIENTIST})
_KEEPERS: Final = frozenset({ProjectRole.OWNER, ProjectRole.MAINTAINER})


class Permission(StrEnum):
    """What a route does, as far as it matters who may ask for it."""

    STRANGERS = "ask without a token"
    KNOW_ONESELF = "see whom the server takes one for"
    USE_SERVER = "see the server, and the projects that one knows"
    ADMINISTER = "make users and projects, set quotas, and read the installation's audit record"
    MONITOR = "read the installation's metrics"
    READ = "see sessions, rounds, metrics, events, nodes and members"
    VERIFY = "verify a session's record, byte by byte"
    DOWNLOAD = "download models, and read predictions"
    UPLOAD = "upload models and packages"
    RUN = "create, start, stop and keep sessions, and ask for predictions"
    DELETE = "delete sessions, predictions, models and packages, and prune"
    READ_TOKENS = "see every token of the project"
    ADMIT_NODES = "make tokens for clients and combiners, and revoke tokens and nodes"
    LABEL_NODES = "label clients"
    OWN_TOKENS = "make API tokens for oneself"
    AUDIT = "read the project's audit record"
    MANAGE_MEMBERS = "add and remove members, and change their roles"


ROLES: Final[Mapping[Permission, frozenset[Holder]]] = MappingProxyType(
    {
        Permission.STRANGERS: frozenset(Role),
        Permission.KNOW_ONESELF: frozenset(Role),
        Permission.USE_SERVER: frozenset({Role.PERSON}),
        Permission.ADMINISTER: frozenset(),
        Permission.MONITOR: frozenset(),  # and whoever has HANSA_METRICS_TOKEN
        Permission.READ: _MEMBERS,
        Permission.VERIFY: _WORKERS | {ProjectRole.AUDITOR},
        Permission.DOWNLOAD: _WORKERS,
        Permission.UPLOAD: _WORKERS,
        Permission.RUN: _WORKERS,
        Permission.DELETE: _KEEPERS,
        Permission.READ_TOKENS: _KEEPERS | {ProjectRole.AUDITOR},
        Permission.ADMIT_NODES: _KEEPERS,
        Permission.LABEL_NODES: _KEEPERS,
        Permission.OWN_TOKENS: _MEMBERS,
        Permission.AUDIT: frozenset({ProjectRole.OWNER, ProjectRole.AUDITOR}),
        Permission.MANAGE_MEMBERS: frozenset({ProjectRole.OWNER}),
    }
)
"""Permission → who has it beside the site administrators. Without a token one has `STRANGERS` alone."""


def allows(permission: Permission, roles: Iterable[Holder]) -> bool:
    """Whether each of these roles has the permission, and there is one."""
    measured = tuple(roles)
    return bool(measured) and all(role in ROLES[permission] for role in measured)


def holders(permission: Permission) -> str:
    """Who has a permission, for a sentence."""
    order: tuple[Holder, ...] = (*ProjectRole, *Role)
    return ", ".join([role.value for role in order if role in ROLES[permission]] + ["site administrator"])


def covered(role: ProjectRole, roles: Iterable[ProjectRole]) -> bool:
    """Whether whoever is measured by these roles may hand on this one: it has no permission that they lack."""
    own = tuple(roles)
    return all(allows(permission, own) for permission, have in ROLES.items() if role in have)
