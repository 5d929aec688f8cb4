"""A process that leads, until it is killed; then it writes as a leader, and says what came of it.

python leader.py STORE LEASE. It says its epoch when it leads, and the outcome of a write for each line of its input.
"""

import asyncio
import sys

from store_examples import a_session

from hansa.errors import HansaError
from hansa.store.opening import open_store


def say(what: object) -> None:
    print(what, flush=True)  # noqa: T201  # to the test


async def main(url: str, lease: float) -> None:
    store = open_store(url)
    await store.open()
    leadership = store.leadership("controller", lease=lease)
    await leadership.acquire()
    leader = store.fenced(leadership)
    say(leadership.epoch)
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            await leader.put(a_session(line.strip()))
        except HansaError as error:
            say(type(error).__name__)
        else:
            say("written")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
