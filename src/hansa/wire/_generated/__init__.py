"""Made by proto/generate.py from proto/hansa/v1; do not edit. Only hansa.wire imports it."""
