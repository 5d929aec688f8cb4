"""Which groups of an OpenID provider make somebody what, in which project: a mapping that administrators set."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from hansa.errors import ConfigError
from hansa.network.controller.names import checked_name
from hansa.store.records import ProjectRole

__all__ = ["Groups"]

_ADMIN: Final = "admin"


@dataclass(frozen=True, slots=True)
class Groups:
    """Group → roles. What it names, it alone decides: see `roles` and `admin`."""

    projects: Mapping[str, Mapping[str, ProjectRole]] = field(default_factory=dict)
    """Project → group → role."""
    admins: frozenset[str] | None = None
    """The groups of site administrators; None: no group makes one, and none is taken from anybody."""

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> "Groups":
        """From group → `PROJECT:ROLE`, or `admin`, or several by commas; raises `ConfigError`."""
        projects: dict[str, dict[str, ProjectRole]] = {}
        admins: set[str] = set()
        for group, granted in given.items():
            for grant in map(str.strip, granted.split(",")):
                project, colon, role = grant.partition(":")
                if grant == _ADMIN:
                    admins.add(group)
                elif not colon or role not in {known.value for known in ProjectRole}:
                    raise ConfigError(
                        f"HANSA_OIDC_GROUPS maps {group!r} to {grant!r}: write PROJECT:ROLE, or {_ADMIN}; roles are "
                        + ", ".join(ProjectRole)
                    )
                else:
                    projects.setdefault(checked_name(project, "project"), {})[group] = ProjectRole(role)
        return cls(projects, frozenset(admins) or None)

    def roles(self, groups: Collection[str]) -> Mapping[str, ProjectRole | None]:
        """Project → what somebody in these groups is there; None: no member. Of several roles the first of the list."""
        return {
            project: next((role for role in ProjectRole if role in {granted[g] for g in granted if g in groups}), None)
            for project, granted in self.projects.items()
        }

    def admin(self, groups: Collection[str]) -> bool | None:
        """Whether somebody in these groups is a site administrator; None: the groups do not say."""
        return None if self.admins is None else not self.admins.isdisjoint(groups)
