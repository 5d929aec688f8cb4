"""`hansa project`: how quotas are written."""

import pytest
import typer

from hansa.cli.project import _amount


@pytest.mark.parametrize(
    ("text", "kind", "meant"),
    [
        ("10GB", "storage", 10_000_000_000),
        ("1.5 MB", "storage", 1_500_000),
        ("512MiB", "storage", 512 << 20),
        ("7kB", "storage", 7_000),
        ("812", "storage", 812),
        ("812B", "storage", 812),
        ("3", "sessions", 3),
        ("default", "clients", None),
    ],
)
def test_an_amount_is_a_number_with_a_unit_or_the_default(text: str, kind: str, meant: int | None) -> None:
    assert _amount(text, kind) == meant


@pytest.mark.parametrize(
    ("text", "kind"), [("10GB", "sessions"), ("1.5", "clients"), ("-1", "storage"), ("much", "storage")]
)
def test_an_amount_that_cannot_be_is_refused(text: str, kind: str) -> None:
    with pytest.raises(typer.BadParameter, match=kind):
        _amount(text, kind)
