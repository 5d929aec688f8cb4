"""A process that commits rounds, with their models, until it is killed; it says each number when it is committed.

python committer.py STORE OBJECTS SESSION [LIMIT], where STORE and OBJECTS are URLs
"""

import asyncio
import sys
from dataclasses import replace

from store_examples import PROJECT, a_commit, a_session

from hansa.errors import NotFoundError
from hansa.store.opening import open_objects, open_store
from hansa.store.records import SessionRecord


def model_bytes(session: str, number: int) -> list[bytes]:
    """The model of a round; round 0 has one too."""
    return [f"{session} {number}".encode() * 1000, bytes(5000)]


async def main(store_url: str, objects_url: str, key: str, limit: int) -> None:
    store, objects = open_store(store_url), open_objects(objects_url)
    await store.open()
    try:
        session = await store.get(SessionRecord, PROJECT, key)
    except NotFoundError:
        seed = await objects.put(model_bytes(key, 0))
        session = a_session(key, seed_model=seed, model=seed)
        await store.put(session)
    while session.round < limit:
        number = session.round + 1
        model = await objects.put(model_bytes(key, number))
        commit = a_commit(session, number, clients=8, model=model, parent=session.model)
        await store.commit_round(replace(commit, session=replace(commit.session, cause=f"round {number}")))
        session = commit.session
        print(number, flush=True)  # noqa: T201  # the acknowledgement
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], limit=int(sys.argv[4]) if len(sys.argv) > 4 else 10**9))
