from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of the public data sets, which lie beside the repository; a test that needs them skips without."""
    if not _SHARED.is_dir():
        pytest.skip(f"the public data sets are not in {_SHARED}")
    return _SHARED
