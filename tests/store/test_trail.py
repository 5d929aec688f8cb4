"""The trail of models, from a model to its seed and to what was made of it."""

import pytest
from store_examples import PROJECT, digest

from hansa.errors import ConfigError, NotFoundError
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import (
    ModelRecord,
)


def a_model(number: int, parent: int | None, session: str = "s1", at: int = 1, project: str = PROJECT) -> ModelRecord:
    made_from = None if parent is None else digest(parent)
    return ModelRecord(digest(number), project, session, at, made_from, 1, 1.0, f"{session}-{number}")


async def trail(store: MetadataStore, model: int, **options: int) -> tuple[list[int], list[int]]:
    """(ancestors, descendants), by number."""
    up = await store.ancestors(PROJECT, digest(model), **options)
    down = await store.descendants(PROJECT, digest(model), **options)
    return [int(m.id, 16) for m in up], [int(m.id, 16) for m in down]


async def test_the_trail_of_a_tree_of_models(store: MetadataStore):
    #  1 ─ 2 ─ 3 ─ 4          another project has a trail of the same names
    #      └── 5 ─ 6
    family = {1: None, 2: 1, 3: 2, 5: 2, 4: 3, 6: 5}
    await store.put(*(a_model(child, parent) for child, parent in family.items()))
    await store.put(
        *(a_model(child, parent, project="theirs") for child, parent in {4: 8, 8: 7, 7: None, 9: 2}.items())
    )

    assert await trail(store, 4) == ([3, 2, 1], [])
    assert await trail(store, 2) == ([1], [3, 5, 4, 6])
    assert await trail(store, 1) == ([], [2, 3, 5, 4, 6])
    assert await trail(store, 4, limit=2) == ([3, 2], [])
    assert await trail(store, 1, limit=2) == ([], [2, 3])


async def test_a_model_that_two_sessions_reached_is_in_a_trail_once(store: MetadataStore):
    for session in ("s1", "s2"):
        await store.put(*(a_model(n, n - 1 if n else None, session, n) for n in range(4)))

    assert await trail(store, 2) == ([1, 0], [3])
    assert (await store.ancestors(PROJECT, digest(2)))[0].name == "s1-1"
    assert (await store.list(ModelRecord, Query(PROJECT, {"id": digest(2)}))).total == 2
    assert (await store.get(ModelRecord, PROJECT, digest(2))).session == "s1"


async def test_a_trail_that_comes_back_to_itself_ends(store: MetadataStore):
    # round 2 leaves the model as it is, round 4 returns to the model of round 2
    await store.put(a_model(0, None, at=0), a_model(1, 0, at=1), a_model(1, 1, at=2))
    await store.put(a_model(2, 1, at=3), a_model(1, 2, at=4))

    assert await trail(store, 1) == ([0, 2], [2])
    assert await trail(store, 2) == ([1, 0], [1])
    assert await trail(store, 0) == ([], [1, 2])


async def test_a_trail_of_many_rounds_is_followed_to_its_seed(store: MetadataStore):
    await store.put(*(a_model(n, n - 1 if n else None, at=n) for n in range(1000)))

    assert await trail(store, 999) == (list(range(998, -1, -1)), [])
    assert await trail(store, 0) == ([], list(range(1, 1000)))


async def test_the_trail_of_a_model_of_another_project_is_not_found(store: MetadataStore):
    await store.put(a_model(1, None, project="theirs"))

    for follow in (store.ancestors, store.descendants):
        with pytest.raises(NotFoundError, match="in project 'harbour'"):
            await follow(PROJECT, digest(1))


async def test_a_trail_has_at_least_one_model(store: MetadataStore):
    with pytest.raises(ConfigError, match="limit = 0"):
        await store.ancestors(PROJECT, digest(1), limit=0)
