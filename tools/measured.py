"""Keeps what `hansa bench run` has measured: `python tools/measured.py FOLDER …` reads each folder's table.csv.

A folder is called as its recipe, as `hansa bench run` does by default. The numbers go to measured.json beside recipes,
from which `hansa bench show` and docs/reference/benchmarks.md have them.
"""

import csv
import json
import math
import sys
from pathlib import Path

from hansa.experiments import load_recipe

MEASURED = Path(__file__).parent.parent / "src" / "hansa" / "experiments" / "recipes" / "measured.json"


def main(folders: list[str]) -> int:
    """Replace what was known of the rows that were run, and keep the others that their recipes have."""
    known = json.loads(MEASURED.read_text(encoding="utf-8"))
    for folder in map(Path, folders):
        recipe = load_recipe(folder.name)
        rows: dict[str, dict[str, dict[str, float | None]]] = {}
        with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["measured"]:
                    rows.setdefault(row["row"], {})[row["number"]] = {
                        "measured": _digits(row["measured"], 6),
                        "deviation": _digits(row["deviation"], 3),
                        "seeds": int(row["seeds"]),
                    }
        before = known.get(folder.name, {})
        names = [row.name for row in recipe.rows]
        known[folder.name] = {name: rows.get(name) or before[name] for name in names if name in {**rows, **before}}
        print(f"{folder.name}: {sum(map(len, rows.values()))} numbers")
    MEASURED.write_text(json.dumps(known, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    return 0


def _digits(text: str, count: int) -> float | None:
    """None where it is not finite: JSON has no word for it."""
    value = float(text or "nan")
    return float(f"{value:.{count}g}") if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
