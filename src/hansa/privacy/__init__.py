"""Clipping and noise: what an update, and the sum of a round, may tell of one client."""

__all__: list[str] = []
