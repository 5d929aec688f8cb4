"""How much of a machine one task may use. The system refuses the rest, or the task is ended."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from hansa.errors import ConfigError

__all__ = ["NO_LIMITS", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what one task uses; None: as much as there is."""

    cpu: float | None = None
    """CPU seconds of one task, commands that it starts included. The agent counts them, and ends what has used more."""
    wall: float | None = None
    """Seconds of one task, from start to end."""
    memory: int | None = None
    """Bytes of address space of each process (RLIMIT_AS); more than it has in memory, GPU mappings included."""
    file_size: int | None = None
    """Bytes of each file that is written (RLIMIT_FSIZE)."""
    processes: int | None = None
    """Processes and threads of this user at once (RLIMIT_NPROC); root has no such limit."""
    open_files: int | None = None
    """Open files of each process (RLIMIT_NOFILE)."""
    disk: int | None = None
    """Bytes that the folder of a package's process may hold. The agent counts them, and ends what has used more."""

    @property
    def watched(self) -> bool:
        """Whether the agent has to look."""
        return any(limit is not None for limit in (self.cpu, self.wall, self.disk))

    def __post_init__(self) -> None:
        """Refuse what is no limit."""
        for name, value in asdict(self).items():
            if value is not None and not (0 < value < math.inf):
                raise ConfigError(f"the limit {name} must be a number above 0, not {value!r}; leave it out for none")

    def encode(self) -> str:
        """As a command-line argument of a worker process."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "Limits":
        """What `encode` wrote."""
        return cls(**json.loads(text))

    def apply(self) -> None:
        """Bind this process, and all that it will start, for good, as far as the system has such limits.

        A crash leaves no core file: data would be in it.
        """
        if sys.platform == "win32":  # the system has no such limits
            return
        import resource  # noqa: PLC0415 - not everywhere

        wanted: Mapping[int, int | None] = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_AS: self.memory,
            resource.RLIMIT_FSIZE: self.file_size,
            resource.RLIMIT_NPROC: self.processes,
            resource.RLIMIT_NOFILE: self.open_files,
        }
        for kind, value in wanted.items():
            if value is not None:
                _, most = resource.getrlimit(kind)
                bound = value if most == resource.RLIM_INFINITY else min(value, most)
                resource.setrlimit(kind, (bound, bound))


NO_LIMITS: Final = Limits()
