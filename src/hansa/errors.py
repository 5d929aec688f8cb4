"""Everything that can go wrong, as one tree.

HansaError
├── InputError                  the caller gave something that cannot be used
│   ├── ArraysMismatchError     names, shapes or dtypes differ from what is expected
│   ├── AppError                an app cannot be loaded, or lacks a function that is needed
│   ├── ConfigError             a setting is unknown or out of range, or a plug-in has no such name
│   └── MissingExtraError       an optional dependency is not installed
├── UpdateRejectedError         an update must not be counted; carries a `Reason`
├── UserCodeError               user code raised, exited or hung; carries its traceback
├── RunFailedError              a run ended without finishing
│   ├── DeadlockError           workers wait for each other, or for one that has ended
│   └── QuorumNotMetError       too few updates arrived before the deadline
├── WireError                   bytes from the network are not what they should be
├── ConnectionFailedError       a peer cannot be reached
│   └── UntrustedServerError    a server cannot show that it is the one that is meant
├── AuthenticationError         no token, or one that does not hold
├── PermissionDeniedError       the identity may not do this
├── ThrottledError              it was tried too often; the same call may succeed later
├── StorageError                a disk or a database cannot keep something, or give it back
│   ├── StorageUnavailableError for now: away, restarting, full or busy; the same call may succeed later
│   └── CorruptionError         what is stored is not what was stored, or its chain of hashes is broken
├── NotFoundError               there is no such thing (in this project)
│   └── PrunedError             there was: its bytes were given up by a session's policy
└── ConflictError               it exists already, or its state forbids the action
    └── QuotaExceededError      its project has used up what it may

Every message says what happened, to whom, and what to do.
"""

from enum import StrEnum

__all__ = [
    "AppError",
    "ArraysMismatchError",
    "AuthenticationError",
    "ConfigError",
    "ConflictError",
    "ConnectionFailedError",
    "CorruptionError",
    "DeadlockError",
    "HansaError",
    "InputError",
    "MissingExtraError",
    "NotFoundError",
    "PermissionDeniedError",
    "PrunedError",
    "QuorumNotMetError",
    "QuotaExceededError",
    "Reason",
    "RunFailedError",
    "StorageError",
    "StorageUnavailableError",
    "ThrottledError",
    "UntrustedServerError",
    "UpdateRejectedError",
    "UserCodeError",
    "WireError",
]


class Reason(StrEnum):
    """Why an update was not counted."""

    LATE = "late"
    """The round had closed."""
    DUPLICATE = "duplicate"
    """The client had already been counted in this round."""
    NOT_INVITED = "not-invited"
    """The client is not in the round's cohort."""
    UNKNOWN_ROUND = "unknown-round"
    """No such run or round is open here."""
    STRUCTURE = "structure"
    """Tensor names, shapes or dtypes differ from the model's."""
    NOT_FINITE = "not-finite"
    """A value is NaN or infinite."""
    OUT_OF_RANGE = "out-of-range"
    """A value is too large for the exact sum."""
    WEIGHT = "weight"
    """`num_examples` is not between 1 and the run's `max_weight`."""
    TOO_LARGE = "too-large"
    """More bytes than the model can account for."""
    DIGEST = "digest"
    """The bytes received are not the bytes announced."""
    MALFORMED = "malformed"
    """The bytes are not a valid safetensors file."""
    UNSIGNED = "unsigned"
    """The client's signature is missing, or does not hold."""
    STALE = "stale"
    """The update was made from a model that is older than the algorithm's `max_staleness` allows."""


class HansaError(Exception):
    """Base of every error that hansa raises on purpose."""


class InputError(HansaError):
    """The caller gave something that cannot be used."""


class ArraysMismatchError(InputError):
    """Names, shapes or dtypes differ from what is expected."""


class AppError(InputError):
    """An app cannot be loaded, or lacks a function that is needed."""


class ConfigError(InputError):
    """A setting is unknown or out of range, or a plug-in has no such name."""


class MissingExtraError(InputError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        """feature: what was asked for; extra: the name in `hansa[extra]` that brings it."""
        super().__init__(f"{feature} needs an optional dependency: pip install 'hansa[{extra}]'")
        self.feature = feature
        self.extra = extra

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str]]:
        """It can be copied, and come back from another process."""
        return type(self), (self.feature, self.extra)


class UpdateRejectedError(HansaError):
    """An update must not be counted."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """detail: one sentence for a person, naming the tensor or the number at fault."""
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["UpdateRejectedError"], tuple[Reason, str]]:
        """It can be copied, and come back from another process."""
        return type(self), (self.reason, self.detail)


class UserCodeError(HansaError):
    """User code raised, exited or hung."""

    def __init__(self, message: str, traceback: str = "") -> None:
        """traceback: the formatted traceback where there is one, else empty."""
        super().__init__(message)
        self.traceback = traceback


class RunFailedError(HansaError):
    """A run ended without finishing; the message is its cause."""


class DeadlockError(RunFailedError):
    """Workers wait for each other, or for one that has ended; the message names them."""


class QuorumNotMetError(RunFailedError):
    """Too few updates arrived before the deadline."""


class WireError(HansaError):
    """Bytes from the network are not what they should be."""


class ConnectionFailedError(HansaError):
    """A peer cannot be reached."""


class UntrustedServerError(ConnectionFailedError):
    """A server cannot show that it is the one that is meant; nothing was said to it."""


class AuthenticationError(HansaError):
    """No token, or one that does not hold."""


class PermissionDeniedError(HansaError):
    """The identity may not do this."""


class ThrottledError(HansaError):
    """It was tried too often; the same call may succeed later."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        """wait: seconds after which it may; 0: that is not known."""
        super().__init__(message)
        self.wait = wait


class StorageError(HansaError):
    """A disk or a database cannot keep something, or give it back."""


class StorageUnavailableError(StorageError):
    """A store is away, restarting, full or busy for now: the same call may succeed later, with nobody's help or some.

    Whether a write that raised it was done is unknown; `commit_round` and `ObjectStore.put` may be repeated.
    """


class CorruptionError(StorageError):
    """What is stored is not what was stored, or its chain of hashes is broken."""


class NotFoundError(HansaError):
    """There is no such thing (in this project)."""


class PrunedError(NotFoundError):
    """There was such a model: its bytes were given up by a session's policy, its record is kept."""


class ConflictError(HansaError):
    """It exists already, or its state forbids the action."""


class QuotaExceededError(ConflictError):
    """A project has used up a quota; the message names it, its use, and who can raise it."""
