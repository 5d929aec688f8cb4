"""How many examples a client trains on, before it trains."""

from collections.abc import Mapping
from typing import Any

from hansa.errors import AppError

__all__ = ["count_examples"]


def count_examples(data: Any, client: str) -> int:
    """Of what `@app.data` returned: `(x, y)`, `(train, test)`, an object with a `train`, or anything with a length."""
    part = data.train if hasattr(data, "train") else data
    while isinstance(part, tuple) and part:
        part = next(iter(part[0].values()), ()) if isinstance(part[0], Mapping) else part[0]
    try:
        return len(part)
    except TypeError as error:
        raise AppError(
            f"{client} has a {type(part).__name__} as its data, whose examples cannot be counted, which devices with "
            "seconds per sample need: let @app.data return a hansa.data.Split, or (x, y)"
        ) from error
