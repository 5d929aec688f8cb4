"""How many updates become one: `zero`, `accumulate`, `merge`, `report`."""

__all__: list[str] = []
