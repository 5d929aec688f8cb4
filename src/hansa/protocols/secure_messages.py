"""What the server and the clients of secure aggregation say to each other."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hansa.errors import InputError
from hansa.protocols.message import message
from hansa.protocols.secure_sum import listed

__all__ = ["Keys", "Left", "Masked", "Present", "Revealed", "Roster", "Sealed", "Signed", "by_client", "rows"]


@message("secure.keys")
@dataclass(frozen=True, slots=True)
class Keys:
    """A client's public keys in a round."""

    values: np.ndarray
    """uint8."""
    round: int


@message("secure.roster")
@dataclass(frozen=True, slots=True)
class Roster:
    """Those of all clients that have told theirs."""

    clients: np.ndarray
    """int64, ascending."""
    values: np.ndarray
    """uint8 of shape (clients, bytes)."""


@message("secure.sealed")
@dataclass(frozen=True, slots=True)
class Sealed:
    """What a client tells other clients, or what others have told it; the server cannot read it."""

    clients: np.ndarray
    """int64: the others."""
    values: np.ndarray
    """uint8 of shape (clients, bytes)."""
    last: bool
    """There is no more of it."""


@message("secure.masked")
@dataclass(frozen=True, slots=True)
class Masked:
    """A client's change and weight, masked."""

    values: np.ndarray
    """As the scheme has it."""


@message("secure.left")
@dataclass(frozen=True, slots=True)
class Left:
    """A client takes no further part in this round."""

    round: int


@message("secure.present")
@dataclass(frozen=True, slots=True)
class Present:
    """Who has sent a change."""

    clients: np.ndarray
    """int64, ascending."""


@message("secure.signed")
@dataclass(frozen=True, slots=True)
class Signed:
    """What clients have signed: one's own signature, or those of all."""

    clients: np.ndarray
    """int64, ascending."""
    values: np.ndarray
    """uint8 of shape (clients, 64)."""


@message("secure.revealed")
@dataclass(frozen=True, slots=True)
class Revealed:
    """What a client reveals, so that the masks of the sum come off."""

    values: np.ndarray
    """uint8."""


def rows(told: Mapping[int, bytes | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Clients, and their bytes, of shape (clients, bytes); `InputError` names those of another size than most."""
    by_size: dict[int, list[int]] = {}
    for client, each in told.items():
        by_size.setdefault(len(each), []).append(client)
    if len(by_size) > 1:
        fewest: list[int] = min(by_size.values(), key=len)
        raise InputError(
            f"what {listed(fewest)} told has another size than what others did: all parties "
            "must run the same program, with the same settings, on the same model"
        )
    stacked = [np.frombuffer(each, np.uint8) for each in told.values()]
    return np.array(list(told), np.int64), np.stack(stacked) if stacked else np.zeros((0, 0), np.uint8)


def by_client(said: Roster | Sealed | Signed) -> dict[int, bytes]:
    """The bytes of each client; raises `InputError` where they are not of as many clients as are named."""
    if said.values.ndim != 2 or said.clients.shape != said.values.shape[:1]:  # noqa: PLR2004 - (clients, bytes)
        raise InputError(f"{said.values.shape} bytes came as those of {said.clients.size} clients")
    return {client: row.tobytes() for client, row in zip(said.clients.tolist(), said.values, strict=True)}
