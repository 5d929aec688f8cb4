"""The modules that apps are while they are loaded."""

from typing import Final

__all__ = ["MODULE"]

MODULE: Final = "hansa_app_"
"""Apps are modules of this name and a digest of their path, so that none is another's."""
