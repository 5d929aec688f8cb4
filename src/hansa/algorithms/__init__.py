"""What to do: state → state, one paper per module, both halves in it. Registered in `hansa.algorithms`."""

__all__: list[str] = []
