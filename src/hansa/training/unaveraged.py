"""What trainers say whose models are no average of local ones: their algorithm looks at the examples itself."""

from hansa.errors import AppError

__all__ = ["only_by"]


def only_by(trainer: object, algorithm: str) -> AppError:
    """The error of a local training that there is none of."""
    return AppError(
        f"{type(trainer).__name__} has no local training of its own: run it with the algorithm {algorithm}, which sums "
        "over the examples of all clients"
    )
