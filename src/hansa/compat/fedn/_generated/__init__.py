"""Made by proto/generate.py from proto/fedn; do not edit. Only hansa.compat.fedn imports it."""
