"""The audit record: who did what, in a project and in the installation."""

from typing import Any

from hansa.api.guard import Routes
from hansa.api.permissions import Permission
from hansa.api.routes.lists import Cursors, add_list, list_shape, listed
from hansa.api.routes.network import Limit, Offset
from hansa.api.shapes.people import AuditShape
from hansa.network.controller.controller import Controller
from hansa.store.ports import Query
from hansa.store.records import INSTALLATION, AuditRecord

__all__ = ["AuditRoutes", "InstallationAuditRoutes"]


class AuditRoutes:
    """A project's record."""

    def __init__(self, controller: Controller, cursors: Cursors) -> None:
        """controller: keeps it."""
        self._controller = controller
        self._cursors = cursors

    def add(self, routes: Routes) -> None:
        """Add the route."""
        add_list(
            routes,
            "/audit",
            AuditRecord,
            AuditShape,
            "Who did what in the project, oldest first.",
            needs=Permission.AUDIT,
            store=self._controller.store,
            cursors=self._cursors,
        )


class InstallationAuditRoutes:
    """What concerns no project: logins, accounts, and requests for projects that the caller does not know."""

    def __init__(self, controller: Controller) -> None:
        """controller: keeps it."""
        self._controller = controller

    def add(self, routes: Routes) -> None:
        """Add the route."""
        routes.add(Permission.ADMINISTER, "/audit", self.list_installation_audit, response_model=list_shape(AuditShape))

    async def list_installation_audit(self, limit: Limit = 100, offset: Offset = 0) -> dict[str, Any]:
        """Who did what in the installation, outside of its projects, oldest first."""
        page = await self._controller.store.list(AuditRecord, Query(INSTALLATION, limit=limit, offset=offset))
        return listed(page, 0, limit, offset)
