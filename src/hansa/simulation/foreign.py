"""What of a run other packages have brought: its algorithm, aggregator, transforms and policy, and their code."""

import importlib.util
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution
from pathlib import Path

from blake3 import blake3

from hansa.app.imports import imported_names
from hansa.messages import RunSpec
from hansa.run import entry_point

__all__ = ["Foreign", "foreign"]


@dataclass(frozen=True, slots=True)
class Foreign:
    """One plug-in."""

    group: str
    name: str
    package: str
    version: str
    code: str
    """Digest of its module, and of those of its package that this imports."""

    def __str__(self) -> str:
        """As a person is told of it."""
        return f"{self.package} {self.version}, code {self.code}"


def foreign(spec: RunSpec) -> tuple[Foreign, ...]:
    """Those of a run that are not hansa's own; raises `ConfigError` where one is not installed."""
    named = {
        ("hansa.algorithms", spec.algorithm),
        ("hansa.aggregators", spec.aggregator),
        ("hansa.policies", spec.rules.selection),
        *(("hansa.transforms", each.name) for each in spec.transforms),
    }
    found = ((group, name, entry_point(group, name)) for group, name in sorted(named))
    return tuple(
        Foreign(group, name, point.dist.name, point.dist.version, _code(point.dist, point.module))
        for group, name, point in found
        if point.dist is not None and point.dist.name != "hansa"
    )


def _code(package: Distribution, module: str) -> str:
    """What a module imports of its own package is found in its text, and not by running it."""
    listed = package.read_text("top_level.txt")
    own = frozenset((listed or "").split()) | {module.partition(".")[0]}
    files: dict[str, Path] = {}
    left = [module]
    while left:
        name = left.pop()
        spec = _found(name) if name not in files and name.partition(".")[0] in own else None
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            files[name] = Path(spec.origin)
            left += imported_names(files[name], spec.parent or "")
    whole = blake3()
    for name, file in sorted(files.items()):
        whole.update(f"{name}\n".encode())
        whole.update(file.read_bytes())
    return whole.hexdigest(12)


def _found(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):  # it is something in a module
        return None
