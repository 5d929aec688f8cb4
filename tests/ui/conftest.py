import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))
sys.path.insert(0, str(Path(__file__).parent))

from browser import Visit, chromium, visit
from studied import Studied

expect.set_options(timeout=30_000)  # milliseconds after which a page that does not show something never will


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studied]:
    """A network with two combiners and three clients, on which a session of six rounds has ended."""
    made = Studied(tmp_path_factory.mktemp("studio"))
    made.populate()
    yield made
    made.close()


@pytest.fixture(scope="module")
def _visitor(browser: Browser, studied: Studied) -> Iterator[Visit]:
    with visit(browser, studied.url, studied.code()) as made:
        yield made


@pytest.fixture
def visitor(_visitor: Visit, studied: Studied) -> Visit:
    """A site administrator's browser, which several tests use one after the other."""
    signed_in = _visitor.context.cookies()
    _visitor.wrong.clear()  # what the page of the test before has said, too, of which one hears with the first call
    if not signed_in:
        _visitor.forget()
        _visitor.arrive(studied.code())
    return _visitor
