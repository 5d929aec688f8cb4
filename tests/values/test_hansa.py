"""What `import hansa` gives before anything is loaded."""

import subprocess
import sys

SEEN = """
import sys
import hansa
before = {name for name in sys.modules if name.startswith("hansa.")}
assert not before, before
assert {"simulate", "App", "experiments", "data"} <= set(dir(hansa))
assert not {name for name in sys.modules if name.startswith("hansa.")}
assert hansa.experiments.sweep.__module__ == "hansa.experiments.sweep"
assert hansa.data.partition.iid
"""


def test_its_names_are_listed_and_its_rooms_are_there_without_being_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
