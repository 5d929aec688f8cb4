import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # hostile.py is a module of the tests
