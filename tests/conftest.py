"""What tests of more than one room use."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # tests/federation.py is a module of the tests
