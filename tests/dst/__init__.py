"""Deterministic simulation: the real controller, combiners and clients on a virtual clock and a virtual network."""
