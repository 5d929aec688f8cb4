"""Nothing piles up: what a network holds after a thousand rounds is what it held before them."""

import sys

import pytest

from faults.baseline import SIZE, WARM_UP, baseline, figures
from faults.workload import KEPT

ROUNDS = 1000
ALLOWED = 10e6
"""Bytes of memory that a process may gain: its allocator's. A thousand models would have twelve times as much."""
CONNECTING = 2
"""Files, tasks and threads that come with a connection which is just being made."""
MODELS = 3
"""That a client keeps; beside them lie the app, and the archive that it came in."""


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_thousand_rounds_with_clients_that_come_and_go_leave_nothing_behind() -> None:
    report = baseline(ROUNDS, WARM_UP)
    sys.stdout.write("\n".join(("", *figures(report), "")))
    assert report.flaws == ()
    for name, before in report.before.items():
        after = report.after[name]
        assert after.files <= before.files + CONNECTING, name
        assert after.threads <= before.threads + CONNECTING, name
        assert after.tasks <= before.tasks + CONNECTING, name
        assert after.rss <= before.rss + ALLOWED, name
    for folder, (files, size) in report.kept_after.items():
        assert files <= MODELS + 2, folder
        assert size <= (MODELS + 1) * 4 * SIZE, folder
    assert report.objects <= 3 * KEPT + 1, "the models, states and aggregates that the policy keeps, and the seed"
    assert report.database <= 10_000 * ROUNDS, "rows of a round and its eight contributions"
