"""What FEDn calls active: the helper of who names none, and the compute package that clients fetch."""

from typing import Any, Final

from hansa.compat.fedn.formats import helper_names
from hansa.compat.fedn.notes import Notes
from hansa.errors import InputError, NotFoundError

__all__ = ["Active", "known_helper"]

_HELPERS: Final = "Helper is required to be either 'numpyhelper', 'binaryhelper' or 'androidhelper'"


class Active:
    """Of one project."""

    def __init__(self, notes: Notes) -> None:
        """notes: where it is kept."""
        self._notes = notes

    async def helper(self) -> str | None:
        """Its name; None: nobody has set one."""
        try:
            return str((await self._notes.get("setting", "helper")).data["helper"])
        except NotFoundError:
            return None

    async def use_helper(self, name: object) -> str:
        """Set it; raises `InputError` in FEDn's words."""
        helper = known_helper(name)
        await self._notes.put("setting", {"helper": helper}, name="helper")
        return helper

    async def package(self) -> dict[str, Any] | None:
        """The compute package, as it is kept, with its `package_id`; None: there is none."""
        async for note in self._notes.every("package"):
            if note.data.get("active"):
                return {**note.data, "package_id": note.name}
        return None

    async def use_package(self, wanted: str) -> None:
        """Make the package of this id the active one; empty: none."""
        async for note in self._notes.every("package"):
            if bool(note.data.get("active")) != (note.name == wanted):
                await self._notes.put("package", {**note.data, "active": note.name == wanted}, name=note.name)


def known_helper(name: object) -> str:
    """The name of a helper that is installed; raises `InputError` in FEDn's words."""
    if name not in helper_names():
        raise InputError(_HELPERS)
    return str(name)
