"""Two numbers that tell how a codebase reads, as commands that fail: broad excepts, and what FedAvg makes one load.

`python tools/gates.py` checks src/hansa and exits with 1 and one line per finding when a gate does not hold.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "hansa"

MAX_BROAD_PER_1000_LINES = 0.3
MAX_FEDAVG_MODULES = 8

_BROAD = frozenset({"Exception", "BaseException"})
_DIRECTIVE = re.compile(r"#\s*(noqa(:\s*[A-Z0-9, ]+)?|type:\s*ignore(\[[\w, -]+\])?|pragma:[^#]*)")
_REASON = re.compile(r"[A-Za-z]{2,}\W+[A-Za-z]{2,}")


@dataclass(frozen=True, slots=True)
class Broad:
    """One place that catches everything."""

    line: int
    """From 1."""
    reason: str
    """The comment on that line, without lint directives; empty when there is none."""


def main() -> int:
    """Print what does not hold; 0 when everything does."""
    findings = [*broad_except_findings(SOURCE), *closure_findings(loaded_by("hansa.algorithms.fedavg"))]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


def broad_except_findings(source: Path) -> Iterator[str]:
    """Broad excepts without a reason, and their rate where it is above `MAX_BROAD_PER_1000_LINES`."""
    lines = count = 0
    for path in sorted(source.rglob("*.py")):
        if "_generated" in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        lines += len(text.splitlines())
        for broad in broad_excepts(text):
            count += 1
            if not _REASON.search(broad.reason):
                yield f"{path}:{broad.line}: a broad except without its reason; write it as a comment on this line"
    if count > allowed_broad_excepts(lines):
        yield (
            f"{count} broad excepts in {lines} lines, more than {MAX_BROAD_PER_1000_LINES} per 1,000: "
            "catch the error that you expect, where you can act on it"
        )


def allowed_broad_excepts(lines: int) -> int:
    """How many broad excepts a code base of this size may have."""
    return int(lines * MAX_BROAD_PER_1000_LINES / 1000)


def broad_excepts(text: str) -> list[Broad]:
    """Every `except:`, `except Exception`, `except BaseException` and `suppress(Exception)` of one module, in order."""
    lines = text.splitlines()
    return sorted(
        (Broad(node.lineno, _reason(lines[node.lineno - 1])) for node in ast.walk(ast.parse(text)) if _is_broad(node)),
        key=lambda broad: broad.line,
    )


def loaded_by(module: str) -> list[str]:
    """The modules of hansa that importing this one loads, in a fresh interpreter."""
    code = f"import sys, {module}; print(*sorted(m for m in sys.modules if m.split('.')[0] == 'hansa'))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603 - own code
    return done.stdout.split()


def closure_findings(modules: list[str]) -> Iterator[str]:
    """A finding when one must load more than `MAX_FEDAVG_MODULES` modules to read FedAvg."""
    if len(modules) > MAX_FEDAVG_MODULES:
        yield f"FedAvg loads {len(modules)} modules, {MAX_FEDAVG_MODULES} are allowed: {', '.join(modules)}"


def _is_broad(node: ast.AST) -> bool:
    if isinstance(node, ast.ExceptHandler):
        return node.type is None or _names_broad(node.type)
    return isinstance(node, ast.Call) and _name(node.func) == "suppress" and any(map(_names_broad, node.args))


def _names_broad(node: ast.expr) -> bool:
    return any(_name(part) in _BROAD for part in (node.elts if isinstance(node, ast.Tuple) else [node]))


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _reason(line: str) -> str:
    _, hash_sign, comment = line.partition("#")
    return _DIRECTIVE.sub("", hash_sign + comment).strip(" #-–:")


if __name__ == "__main__":
    sys.exit(main())
