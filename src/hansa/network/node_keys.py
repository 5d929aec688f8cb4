"""The keys of one node in its work folder: the one that it has, the next one until the network knows it, the former.

node-key.pem          the private key that the network knows the node by
node-key.next.pem     one that it hands over to, as soon as it can
former-keys.jsonl     a line of JSON for each change, oldest first: what both keys have signed, and no private key

Whoever is killed between two of these goes on where it was: the next key is on the disk before the network hears of it,
and takes the place of the other once the network knows it.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

from hansa.errors import InputError
from hansa.statements import handover_statement
from hansa.store.disk import explained, make_directory, sync_directory, write_whole
from hansa.store.records import HandoverRecord
from hansa.wire.node_key import NodeKey

__all__ = ["NodeKeys", "handover"]

_CURRENT, _NEXT, _FORMER = "node-key.pem", "node-key.next.pem", "former-keys.jsonl"


class NodeKeys:
    """Keys as files; everything but the constructor raises `StorageError` for a disk that refuses."""

    def __init__(self, folder: Path) -> None:
        """folder: the node's work folder, which need not be there yet."""
        self._current, self._next, self._former = (folder / name for name in (_CURRENT, _NEXT, _FORMER))

    def current(self) -> NodeKey | None:
        """The key that the node has; None: none yet. Raises `InputError` for a file that is no key."""
        return _read(self._current)

    def next(self) -> NodeKey | None:
        """The key that it changes to; None: it keeps the one that it has. Raises `InputError` as above."""
        return _read(self._next)

    def has_next(self) -> bool:
        """Whether it is to change its key."""
        return self._next.exists()

    def made_at(self) -> float:
        """When the current key was made: POSIX seconds."""
        with explained("read this node's key in", self._current):
            return self._current.stat().st_mtime

    def make(self) -> NodeKey:
        """A first key, kept."""
        return _made(self._current)

    def make_next(self) -> NodeKey:
        """A key to change to, kept; one that waits already stays. Raises `InputError` where there is none to change."""
        if not self._current.exists():
            raise InputError(f"{self._current} is not there: this node has not joined its network yet, and has no key")
        return self.next() or _made(self._next)

    def adopt(self, handover: HandoverRecord) -> None:
        """The network knows the node by the next key: the former one is no more."""
        with explained("keep this node's key in", self._current):
            if handover.key not in {each.key for each in self.former()}:
                with self._former.open("a", encoding="utf-8") as former:
                    former.write("\n" + json.dumps(asdict(handover)) + "\n")  # the line before may be cut off
                    former.flush()
                    os.fsync(former.fileno())
            self._next.replace(self._current)
            sync_directory(self._current.parent)

    def former(self) -> list[HandoverRecord]:
        """Changes of the key so far, oldest first; a line that was cut off by a crash is left out."""
        if not self._former.exists():
            return []
        found = []
        for line in self._former.read_text(encoding="utf-8").splitlines():
            try:
                found.append(HandoverRecord(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return found


def handover(project: str, node: str, former: NodeKey, key: NodeKey, at: float) -> HandoverRecord:
    """What both keys sign, as the node keeps it. at: POSIX seconds."""
    statement = handover_statement(project, node, former.public, key.public)
    return HandoverRecord(
        id=f"{project}/{node}",
        project=project,
        node=node,
        former=former.public,
        key=key.public,
        by_former=former.sign(statement).value,
        by_key=key.sign(statement).value,
        at=at,
    )


def _read(file: Path) -> NodeKey | None:
    with explained("read this node's key in", file):
        if not file.exists():
            return None
        try:
            return NodeKey.of_pem(file.read_bytes())
        except InputError as error:
            raise InputError(f"{file} cannot be used ({error}): delete it, and join with a new token") from error


def _made(file: Path) -> NodeKey:
    key = NodeKey.new()
    with explained("keep this node's key in", file):
        make_directory(file.parent)
        write_whole(file, key.pem)
    return key
