"""Rows and objects: what outlives a process."""

__all__: list[str] = []
