"""What keeps code that a session brought away from the rest of the machine, as far as the machine has the means.

| what        | bubblewrap | unshare | neither |                                                                      |
|-------------|------------|---------|---------|----------------------------------------------------------------------|
| `files`     | yes        | no      | no      | it writes to its own folders alone, and never sees those of the node |
| `processes` | yes        | yes     | no      | it sees no other process, and nothing that it starts outlives it     |
| `network`   | yes        | yes     | no      | it reaches no other machine, unless the site allows that             |

Its environment is clean and its limits hold everywhere. What holds here is found out by trying.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from hansa.errors import ConfigError
from hansa.network.client.limits import NO_LIMITS, Limits
from hansa.settings import environment_for_packages

__all__ = ["NO_CONFINEMENT", "Confinement", "Tool", "confine", "hide_this_process"]

_PATIENCE: Final = 20.0
"""Seconds for an empty program to end."""
_DUMPABLE: Final = 4
"""PR_SET_DUMPABLE of Linux."""
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/sys", "/nix/store")
"""What every program needs, where a site names the rest."""
_GPUS: Final = ("nvidia*", "dri", "kfd", "dxg")
_NAMES: Final = ("/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf")
"""Where /etc/resolv.conf may lead to."""


class Tool(StrEnum):
    """What confines."""

    BWRAP = "bwrap"
    UNSHARE = "unshare"
    NOTHING = ""


@dataclass(frozen=True, slots=True)
class Confinement:
    """Rules for worker processes, and the means that this machine has to enforce them."""

    tool: Tool = Tool.NOTHING
    network: bool = True
    """Whether it may reach other machines."""
    hidden: tuple[Path, ...] = ()
    """Folders and files that it must not see: the node's own."""
    readable: tuple[Path, ...] | None = None
    """What it may read beside the system's programs and its own files; None: whatever is not hidden."""
    shown: tuple[Path, ...] = ()
    """What it may read in any case: the data that the owner named."""
    variables: tuple[str, ...] = ()
    """Names of the environment that it gets beside the usual ones."""
    limits: Limits = NO_LIMITS
    why_not: str = ""
    """Why there is no better tool."""
    waived: bool = False
    """Whether somebody has said that none is needed."""

    @property
    def enforced(self) -> tuple[str, ...]:
        """What holds here."""
        walls = {
            Tool.BWRAP: ("files", "processes", "network"),
            Tool.UNSHARE: ("processes", "network"),
            Tool.NOTHING: (),
        }[self.tool]
        return ("environment", "limits", *(wall for wall in walls if wall != "network" or not self.network))

    @property
    def missing(self) -> tuple[str, ...]:
        """What should hold and does not."""
        wanted = ("files", "processes") if self.network else ("files", "processes", "network")
        return tuple(wall for wall in wanted if wall not in self.enforced)

    def environment(self, scratch: Path) -> Mapping[str, str]:
        """Of a worker process; scratch: the folder that is its home."""
        home = str(scratch)
        return {**environment_for_packages(self.variables), "HOME": home, "TMPDIR": home, "TEMP": home, "TMP": home}

    def command(self, arguments: Sequence[str], *, writable: Sequence[Path], readable: Sequence[Path]) -> list[str]:
        """The command line that runs these arguments confined. writable, readable: the process's own folders."""
        match self.tool:
            case Tool.BWRAP:
                return [*self._bwrap(writable, readable), "--", *arguments]
            case Tool.UNSHARE:
                net = () if self.network else ("--net",)
                spaces = ("--user", "--map-current-user", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
                return ["unshare", *spaces, *net, "--", *arguments]
            case Tool.NOTHING:
                return list(arguments)

    def _bwrap(self, writable: Sequence[Path], readable: Sequence[Path]) -> Iterator[str]:
        """The order counts: what comes later lies over what comes before."""
        yield from ("bwrap", "--die-with-parent", "--unshare-all", "--cap-drop", "ALL")
        yield from self._system()
        for path in (*_interpreter(), *(self.readable or ()), *self.shown):
            yield from ("--ro-bind-try", str(path), str(path))
        for hidden in self.hidden:
            if hidden.is_dir():
                yield from ("--tmpfs", str(hidden))
            elif hidden.exists():
                yield from ("--ro-bind", "/dev/null", str(hidden))
        for path in readable:
            yield from ("--ro-bind", str(path), str(path))
        for path in writable:
            yield from ("--bind", str(path), str(path))

    def _system(self) -> Iterator[str]:
        for place in ("/",) if self.readable is None else _SYSTEM:
            yield from ("--ro-bind-try", place, place)
        yield from ("--proc", "/proc", "--dev", "/dev")
        for device in (found for pattern in _GPUS for found in sorted(Path("/dev").glob(pattern))):
            yield from ("--dev-bind", str(device), str(device))
        for place in ("/tmp", "/run"):  # noqa: S108 - where other programs listen on sockets: an empty one of its own
            yield from ("--tmpfs", place)
        if self.network:
            yield "--share-net"
            for place in _NAMES:
                yield from ("--ro-bind-try", place, place)


NO_CONFINEMENT: Final = Confinement(why_not="nobody asked for it", waived=True)


def confine(mode: str, rules: Confinement) -> Confinement:
    """These rules with the best tool that works here. mode: "required", "where-possible" or "off".

    Raises `ConfigError` where it is required that all of them be enforced, and that cannot be.
    """
    if mode == "off":
        return replace(rules, tool=Tool.NOTHING, network=True, why_not="confinement is off", waived=True)
    reasons = []
    best = rules
    for tool in (Tool.BWRAP, Tool.UNSHARE):
        best = replace(rules, tool=tool)
        flaw = _flaw(best)
        if not flaw:
            break
        reasons.append(flaw)
    else:
        best = replace(rules, tool=Tool.NOTHING)
    best = replace(best, why_not="; ".join(reasons))
    if mode == "required" and best.missing:
        raise ConfigError(
            f"code that sessions bring must be confined here, and {', '.join(best.missing)} cannot be "
            f"({best.why_not}): install bubblewrap, or let the system give unprivileged user namespaces; or set "
            "confinement to where-possible, which runs it as it can"
        )
    return best


def hide_this_process() -> None:
    """Let no other process of this user read this one's memory and environment, where its token is. Linux alone."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - Linux alone

        ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0)


def _flaw(confinement: Confinement) -> str:
    """Why its tool cannot be used; empty when a program runs in it."""
    tool = confinement.tool.value
    if sys.platform != "linux":
        return f"{tool} is for Linux"
    if shutil.which(tool) is None:
        return f"{tool} is not installed"
    command = confinement.command([sys.executable, "-I", "-S", "-c", ""], writable=(), readable=())
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)  # noqa: S603 - ours
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{tool} does not work here: {error}"
    said = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else f"{tool} does not work here: {said[-1] if said else done.returncode}"


def _interpreter() -> Iterator[Path]:
    """Where this Python and its modules lie, hansa among them."""
    for name in dict.fromkeys((sys.prefix, sys.base_prefix, *sys.path)):
        path = Path(name)
        if path.is_absolute() and path not in {Path("/"), Path.cwd()}:
            yield path
