"""Who may have code run beside the server: anybody who may run it, where walls keep it from the server's keys."""

from hansa.errors import PermissionDeniedError
from hansa.network.client.confinement import Confinement
from hansa.network.controller.audit import SERVER, audit_line
from hansa.network.controller.people import People

__all__ = ["Walls"]


class Walls:
    """Between the server's own files and the code that sessions bring."""

    def __init__(self, confinement: Confinement, people: People) -> None:
        """confinement: of that code; people: who is a site administrator, and where a refusal is noted."""
        self.confinement = confinement
        self._people = people

    async def need(self, project: str, by: str) -> None:
        """Before an app's code is run beside the server. by: who asks for it.

        Where the server's own files cannot be hidden from it, its author could take the server's keys: then only who
        has those anyway may ask. Raises `PermissionDeniedError` for anybody else.
        """
        walls = self.confinement
        if walls.waived or "files" in walls.enforced or by == SERVER or (await self._people.account(by)).admin:
            return
        await self._people.note(audit_line(project, by, "app.run", project, outcome="refused", detail="no walls"))
        raise PermissionDeniedError(
            f"{by} may not run code beside this server, which cannot hide its keys from it ({walls.why_not}): install "
            "bubblewrap there, have a site administrator run it, or run nothing there: no functions of the package, no "
            "central evaluation (evaluation.central), no party `central`"
        )
