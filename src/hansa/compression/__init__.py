"""Updates in fewer bytes: rounded values, fewer values."""

__all__: list[str] = []
