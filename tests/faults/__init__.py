"""A laboratory for faults: real processes are killed, stopped and cut off, and a checker reads what came of it."""
