"""Aggregation servers: `Hub` is the heart of each, `node` the process that serves one and dials its parent."""

__all__: list[str] = []
