#!/usr/bin/env python3
"""Write a bill of materials (CycloneDX 1.6, JSON) of the environment that this runs in: `make sbom`.

    python tools/sbom.py [FILE]

Every installed distribution with version, licence, package URL, and what depends on what.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    """The exit code."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "hansa.cdx.json")
    command = [
        *(sys.executable, "-m", "cyclonedx_py", "environment", sys.executable),
        *("--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application"),
        *("--output-reproducible", "--spec-version", "1.6", "--output-format", "JSON", "--validate"),
        *("--output-file", str(target)),
    ]
    done = subprocess.run(command, check=False)  # noqa: S603 - our own arguments
    if done.returncode == 0:
        print(f"wrote {target}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
