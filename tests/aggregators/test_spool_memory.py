"""Memory of a fold does not grow with its clients, though each of their updates is kept."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from hansa.aggregators import geometry, spooled
from hansa.aggregators.bulyan import bulyan
from hansa.aggregators.centered_clipping import centered_clipping
from hansa.aggregators.columns import median
from hansa.aggregators.foolsgold import foolsgold
from hansa.aggregators.geometric_median import geometric_median
from hansa.aggregators.krum import multi_krum
from hansa.aggregators.spooled import Spooled
from hansa.arrays import Arrays
from hansa.messages import Contribution, Update
from hansa.store.spool import empty_partial

SIZE = 100_000
"""Values; 400 kB an update."""

MODEL = Arrays({"w": np.zeros(SIZE, np.float32)})


def peak(aggregator: Spooled, clients: int, model: Arrays = MODEL) -> int:
    """Bytes of Python and numpy at most, from the first update to the report."""
    rng = np.random.default_rng(0)
    plan = aggregator.plan(model)
    tracemalloc.start()
    try:
        partial = empty_partial(aggregator, plan)
        for index in range(clients):
            update = Update({"w": rng.normal(size=model["w"].size).astype(np.float32)}, 1)
            aggregator.accumulate(plan, partial, update, Contribution(f"client-{index}", 1))
        aggregator.report(plan, partial)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "make",
    [
        median,
        lambda: geometric_median(iterations=3),
        lambda: multi_krum(f=1),
        lambda: bulyan(f=1),
        lambda: centered_clipping(tau=100.0),
        foolsgold,
    ],
)
def test_the_peak_is_flat_in_the_number_of_clients(make: Callable[[], Spooled], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spooled, "_SLICE", 2**14)  # 128 kB: a slice is far less than an update
    monkeypatch.setattr(geometry, "_SLICE", 2**14)
    monkeypatch.setattr(geometry, "_TILE", 4)
    few, many = peak(make(), 7), peak(make(), 21)
    assert many - few < 14 * MODEL.nbytes / 50  # 14 clients more, and less than a fiftieth of what they have sent
    assert many < 21 * MODEL.nbytes / 3


@pytest.mark.parametrize("make", [lambda: centered_clipping(tau=100.0), foolsgold])
def test_of_many_clients_nothing_is_held_that_grows_with_their_square(make: Callable[[], Spooled]):
    small = Arrays({"w": np.zeros(64, np.float32)})
    few, many = (peak(make(), clients, small) for clients in (100, 400))
    assert many - few < 300 * 6000  # a kilobyte or two for each; of their squares alone it would be megabytes
