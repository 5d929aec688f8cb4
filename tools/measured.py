"""Keeps what `hansa bench run` has measured: `python tools/measured.py FOLDER …` reads each folder's table.csv.

A folder is called as its recipe, as `hansa bench run` does by default. The numbers go to measured.json beside recipes,
from which `hansa bench show` and docs/reference/benchmarks.md have them.
"""

import csv
import json
import sys
from pathlib import Path

MEASURED = Path(__file__).parent.parent / "src" / "hansa" / "experiments" / "recipes" / "measured.json"


def main(folders: list[str]) -> int:
    """Replace what was known of these recipes."""
    known = json.loads(MEASURED.read_text(encoding="utf-8"))
    for folder in map(Path, folders):
        rows: dict[str, dict[str, dict[str, float]]] = {}
        with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows.setdefault(row["row"], {})[row["number"]] = {
                    "measured": float(f"{float(row['measured']):.6g}"),
                    "deviation": float(f"{float(row['deviation']):.3g}"),
                    "seeds": int(row["seeds"]),
                }
        known[folder.name] = rows
        print(f"{folder.name}: {sum(map(len, rows.values()))} numbers")
    MEASURED.write_text(json.dumps(known, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
