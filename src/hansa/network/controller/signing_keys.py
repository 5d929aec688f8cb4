"""The key that signs tokens, and those that did before it: in the folder `keys` of a controller's data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hansa.errors import InputError
from hansa.store.disk import explained, make_directory, write_whole
from hansa.wire import tokens

__all__ = ["SigningKeys", "forget_former_keys", "public_keys", "rotate_keys"]

_KEY: Final = "tokens.key"
_FORMER: Final = "tokens.former.pem"
"""Public halves, the newest first."""


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """One signs, and what any of them has signed holds."""

    private: str
    """PEM."""
    former: str = ""
    """Public keys, PEM, one after another; empty: the key was never changed."""

    @classmethod
    def of(cls, folder: Path) -> "SigningKeys":
        """Those in a folder; the first start makes one, readable by its owner alone."""
        with explained("keep the key that signs tokens in", folder):
            if not (folder / _KEY).exists():
                make_directory(folder)
                folder.chmod(0o700)
                write_whole(folder / _KEY, tokens.new_key().encode())
            former = folder / _FORMER
            return cls((folder / _KEY).read_text(), former.read_text() if former.exists() else "")

    @property
    def public(self) -> str:
        """What tokens are verified with: PEM, one key after another."""
        return tokens.public_key(self.private) + self.former


def public_keys(folder: Path) -> list[str]:
    """The public keys, `ed25519:` and 64 hexadecimal digits each; the one that signs now comes first.

    Raises `InputError` where there is none yet.
    """
    return tokens.public_keys_in_hex(_existing(folder).public)


def rotate_keys(folder: Path) -> None:
    """Sign with a fresh key from the next start on; what was signed before holds still.

    Raises `InputError` where there is no key yet.
    """
    keys = _existing(folder)
    with explained("change the key that signs tokens in", folder):
        write_whole(folder / _FORMER, keys.public.encode(), 0o644)
        write_whole(folder / _KEY, tokens.new_key().encode())


def _existing(folder: Path) -> SigningKeys:
    if not (folder / _KEY).exists():
        raise InputError(f"there is no key in {folder}: start the server once with `hansa up`, or name its data folder")
    return SigningKeys.of(folder)


def forget_former_keys(folder: Path) -> bool:
    """From the next start on only what the newest key has signed holds; False: there was no other."""
    with explained("forget former keys in", folder):
        try:
            (folder / _FORMER).unlink()
        except FileNotFoundError:
            return False
    return True
