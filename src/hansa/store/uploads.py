"""What must hold of an uploaded model, or a package, before it is deleted: it is there, and nobody names it."""

from hansa.errors import ConflictError, NotFoundError
from hansa.store.records import ModelRecord, PackageRecord

__all__ = ["check_deletable"]


def check_deletable(
    kind: type[ModelRecord] | type[PackageRecord], project: str, digest: str, *, found: bool, named_by: str
) -> None:
    """Raise `NotFoundError` or `ConflictError`. found: whether there is such a row; named_by: as `pruning.naming`."""
    what = "package" if kind is PackageRecord else "uploaded model"
    if not found:
        raise NotFoundError(f"there is no {what} {digest!r} in project {project!r}")
    if named_by:
        raise ConflictError(f"{what} {digest[:12]}… is needed by {named_by}: delete that first")
