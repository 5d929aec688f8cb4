"""Coverage-guided fuzzing of all that reads bytes of strangers: `python -m fuzz`."""
