"""What tests of more than one room use."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # tests/federation.py is a module of the tests

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
