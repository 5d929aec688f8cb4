"""A client that is revoked in the middle of its upload, as the benchmark times it."""

from pathlib import Path

import pytest
import revocation


@pytest.mark.parametrize("below", ["", "west"], ids=["at the root", "below a combiner"])
async def test_who_is_revoked_in_the_middle_of_an_upload_is_out_and_does_not_count(below: str, tmp_path: Path) -> None:
    made = await revocation.measure(tmp_path, below=below)
    assert made.counted == ("other",)
    assert min(made.upload, made.stream) > 0
