"""The environments of the other libraries: made once, outside the repository, each with its own packages."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PACKAGES", "BrokenError", "interpreter", "last_words", "prepare"]

_TORCH = "torch==2.13.0"
_VISION = "torchvision==0.28.0"  # of that torch

PACKAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "pfl": ((_TORCH, "pfl[pytorch]==0.5.2"),),
    "flower": ((_TORCH, "flwr[simulation]==1.42.0"),),
    "fedlab": ((_TORCH, _VISION, "fedlab==1.3.0"),),
    # pip finds no versions that suit all that FedML's services ask for: what its simulation loads, and then FedML alone
    "fedml": (
        (
            _TORCH, _VISION, "numpy<2", "setuptools<81", "networkx<3", "paho-mqtt<2", "requests<2.32", "aiohttp",
            "attrs", "boto3", "cachetools", "chardet", "click", "dill", "docker", "fastapi", "gputil", "h5py",
            "httpx", "multiprocess", "ntplib", "pandas<3", "prettytable", "psutil", "py-machineid", "python-dotenv",
            "pyyaml", "redis", "scikit-learn", "sqlalchemy", "toposort", "tqdm", "tzlocal", "uvicorn", "wandb==0.13.2",
            "wget",
        ),
        ("--no-deps", "fedml==0.9.6"),
    ),
    # FedJAX uses functions that JAX has since removed: the newest with which it works
    "fedjax": (
        (
            "fedjax==0.0.17", "jax==0.4.30", "jaxlib==0.4.30", "dm-haiku==0.0.12", "optax==0.2.3", "numpy<2",
            "scipy<1.15",
        ),
    ),
    "jax": (("jax==0.10.2",),),
}  # fmt: skip
"""What pip installs into each, step after step."""


class BrokenError(Exception):
    """An environment cannot be made; the message is what pip said."""


@dataclass(frozen=True, slots=True)
class _Environment:
    folder: Path
    packages: tuple[tuple[str, ...], ...]

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def wanted(self) -> str:
        """What its stamp says when it is complete."""
        return "\n".join([sys.version, *(" ".join(step) for step in self.packages)])

    @property
    def complete(self) -> bool:
        stamp = self.folder / "installed"
        return stamp.exists() and stamp.read_text() == self.wanted

    def make(self) -> None:
        _run([sys.executable, "-m", "venv", "--clear", str(self.folder)])
        for step in self.packages:
            _run([str(self.python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *step])
        (self.folder / "installed").write_text(self.wanted)


def interpreter(folder: Path, name: str) -> Path:
    """The Python of an environment; hansa's is this one."""
    return Path(sys.executable) if name == "hansa" else _Environment(folder / name, PACKAGES[name]).python


def prepare(folder: Path, name: str) -> None:
    """Make an environment, unless it is there with the same packages; raises `BrokenError`."""
    if name == "hansa":
        return
    environment = _Environment(folder / name, PACKAGES[name])
    if not environment.complete:
        print(f"making {environment.folder}", file=sys.stderr, flush=True)
        environment.make()


def last_words(text: str) -> str:
    """The last line that says something: of a traceback, the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("WARNING: Location")]
    return lines[-1] if lines else "it said nothing"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - pip of that environment
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise BrokenError(errors[0] if errors else last_words(done.stderr))
