"""What `hansa demo` does beside starting processes."""

import signal
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any, cast

from hansa.cli.board import open_board
from hansa.cli.demo import _Ended, _Network
from hansa.errors import ConnectionFailedError


def test_a_controller_that_was_killed_as_the_session_ended_is_started_again_and_asked() -> None:
    """Nobody takes from the queue any more who would start it."""
    happenings, started = SimpleQueue[Any](), list[str]()
    with open_board("a demo", 1, as_json=True) as board:
        network = _Network(cast("Any", None), Path(), happenings, board, Random(0))  # noqa: S311 - no secret
        network._api = cast("Any", "api")
        network._starts["controller"] = lambda: started.append("controller")
        happenings.put(_Ended("controller", -signal.SIGKILL))

        def question(api: Any) -> Any:
            if not started:
                raise ConnectionFailedError("it is not there")
            return api

        assert network.ask(question) == "api"
    assert started == ["controller"]
