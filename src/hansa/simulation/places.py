"""Where the workers of a simulation are, and how one talks to each: what `Workers` needs of pipes, MPI and Ray."""

from collections.abc import Sequence
from typing import Protocol

from hansa.arrays import Arrays
from hansa.simulation.pipes import Body, Message

__all__ = ["Link", "Place"]


class Link(Protocol):
    """One worker: jobs go to it, answers come from it, both in order."""

    def send(self, message: Message, body: Body | None = None) -> None:
        """Give it a job, and do not wait. Raises OSError where it is known to be lost."""

    def receive(self) -> tuple[Message, Arrays]:
        """Wait for its next answer; raises EOFError or OSError when it is lost."""

    def dismiss(self) -> None:
        """Let it end; nothing is sent to it any more."""

    def end(self) -> str:
        """Wait until it has gone; returns how, for a sentence: `exit status 7`."""


class Place(Protocol):
    """What starts workers."""

    @property
    def count(self) -> int:
        """How many workers there are to be."""

    @property
    def second_chances(self) -> int:
        """How often a client is trained again whose worker was lost while it trained; then it has failed.

        0: only user code ends a worker here. More: machines come and go.
        """

    def start(self) -> Link:
        """Start a worker."""

    def wait(self, links: Sequence[Link]) -> Sequence[Link]:
        """Wait until at least one of them has an answer or is lost, and return those."""

    def gives_up(self) -> bool:
        """Whether the one worker in this process is enough, and no others are started from now on."""

    def close(self) -> None:
        """Let go of all; its workers were ended. May be called twice."""
