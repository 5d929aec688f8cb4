#!/usr/bin/env python3
"""Ask for known weaknesses of everything that is installed here; part of `make check`, alone `make audit`.

    python tools/audit.py [--required] [--service osv|pypi] [--osv-url URL]

Fails for a weakness that is not in EXCEPTIONS. Where no advisory source answers, as on a machine without a network,
nothing was audited: that is said, and it is a failure only with --required.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

EXCEPTIONS: Mapping[str, tuple[str, date]] = {}
"""Id of an advisory → why it does not concern hansa, and until when this was thought to hold."""
_SECONDS = 240


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--required", action="store_true")
    parser.add_argument("--service", default="osv")
    parser.add_argument("--osv-url")
    parser.add_argument("--requirements", help="a file of pinned requirements, in the place of what is installed")
    given = parser.parse_args()
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "-s", given.service]
    command += ["--osv-url", given.osv_url] if given.osv_url else []
    command += ["-r", given.requirements, "--no-deps", "--disable-pip"] if given.requirements else ["--skip-editable"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
        found = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return unaudited("no advisory source answered", required=given.required)
    audited = [each for each in found if "vulns" in each]
    weak = [(each["name"], each["version"], flaw) for each in audited for flaw in each["vulns"] if counts(flaw)]
    for name, version, flaw in weak:
        fixed = ", ".join(flaw.get("fix_versions", [])) or "no version yet"
        print(f"{name} {version} has {flaw['id']} (mended in {fixed}): {flaw.get('description', '')[:200]}")
    if weak:
        return 1
    if len(audited) < len(found) or not found:
        skipped = [each["name"] for each in found if "vulns" not in each and each["name"] != "hansa"]
        if skipped or not audited:
            known = f"{len(audited)} of {len(found)} packages are known to the advisory source"
            return unaudited(f"{known}; not {', '.join(skipped[:5])} …", required=given.required)
    print(f"{len(audited)} packages have no known weakness")
    return 0


def counts(flaw: Mapping[str, Any]) -> bool:
    """Whether nobody has said, or not for now, that it does not concern hansa."""
    names = {flaw["id"], *flaw.get("aliases", [])}
    return not any(name in EXCEPTIONS and datetime.now(UTC).date() <= EXCEPTIONS[name][1] for name in names)


def unaudited(why: str, *, required: bool) -> int:
    """Nothing is known: that is no pass."""
    print(f"NOT AUDITED: {why}. Known weaknesses of dependencies were not looked for.", file=sys.stderr)
    return 1 if required else 0


if __name__ == "__main__":
    sys.exit(main())
