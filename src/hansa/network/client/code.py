"""What a worker process is to run: an owner's own app, or a package that a session brought."""

import sys
from dataclasses import dataclass
from pathlib import Path

from hansa.errors import CorruptionError
from hansa.network.client.environments import python_of
from hansa.packages.package import Package
from hansa.packages.package import read as read_package
from hansa.store.disk import explained

__all__ = ["Code"]


@dataclass(frozen=True, slots=True)
class Code:
    """Something that a worker process can load."""

    path: Path
    """The owner's app; or the archive of a package."""
    package: str = ""
    """The package's id; empty for the owner's own app."""
    environment: Path | None = None
    """The virtual environment that was built for the package; None: this process's own."""

    @property
    def python(self) -> Path:
        """The interpreter."""
        return Path(sys.executable) if self.environment is None else python_of(self.environment)

    def opened(self) -> Package:
        """The package, as it lies on the disk. Raises `StorageError`, and `CorruptionError` where it was changed."""
        with explained("read the package", self.path):
            package = read_package(self.path.read_bytes())
        if package.id != self.package:
            raise CorruptionError(
                f"the package {self.path} is not the one that came ({package.id[:12]}…, not {self.package[:12]}…): "
                "something else on this machine has written to it"
            )
        return package

    def placed(self, scratch: Path) -> Path:
        """The app's path: the owner's own as it is, a package's files fresh in this folder."""
        return self.opened().unpack(scratch / "app") if self.package else self.path
