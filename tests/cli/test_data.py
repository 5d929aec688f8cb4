"""`hansa data`."""

from pathlib import Path
from typing import Any

import pytest
from commandline import json_lines, written

from hansa.data.partition import ALIASES, SCHEMES

LABELLED = """
import numpy as np

import hansa
from hansa.data import Examples, Partitioned

EXAMPLES = Examples(np.zeros((100, 2)), np.arange(100) % 4)
shares = Partitioned(EXAMPLES, "label_count:2", test_fraction=0.0)

app = hansa.App()
app.data(shares.share)
"""


def test_show_counts_labels_by_client_and_draws(hansa: Any, tmp_path: Path) -> None:
    app = written(tmp_path, LABELLED)
    done = hansa("data", "show", app, "--clients", 4, "--output", tmp_path / "p.svg")
    assert done.stdout.splitlines()[0].split() == ["0", "1", "2", "3", "examples"]
    assert "100 training examples of 4 labels on 4 clients" in done.stdout
    assert "a client sees 2.00 labels effectively" in done.stdout
    assert (tmp_path / "p.svg").read_text().startswith("<svg")
    (found,) = json_lines(hansa("data", "show", app, "--clients", 4, "--first", 2, "--json").stdout)
    assert list(found["clients"]) == ["client-0", "client-1"]
    assert all(sum(count > 0 for count in row.values()) <= 2 for row in found["clients"].values())
    assert found["statistics"]["clients"] == 2


def test_show_takes_settings_of_the_app_and_refuses_what_nobody_reads(hansa: Any, tmp_path: Path) -> None:
    app = written(
        tmp_path,
        LABELLED.replace(
            "app.data(shares.share)",
            "@app.data\ndef data(client, *, kind='iid'):\n"
            "    return Partitioned(EXAMPLES, kind, test_fraction=0.0).share(client)\n",
        ),
    )
    whole, skewed = (
        hansa("data", "show", app, "-n", 4, *more, "--json") for more in ([], ["--set", "kind=label_count:1"])
    )
    labels = [json_lines(done.stdout)[0]["statistics"]["effective_labels"] for done in (whole, skewed)]
    assert labels[0] > 3
    assert labels[1] == 1
    done = hansa("data", "show", app, "--set", "knd=iid")
    assert (
        "the app has no setting 'knd', and nothing else of it reads --set or config; its settings: kind" in done.stderr
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import hansa\napp = hansa.App()\n", "no data function"),
        (LABELLED + "app._functions['data'] = lambda c: 3", ""),
    ],
)
def test_an_app_whose_labels_cannot_be_told_says_what_it_must_return(
    hansa: Any, tmp_path: Path, source: str, said: str
) -> None:
    done = hansa("data", "show", written(tmp_path, source))
    assert done.exit_code == 1
    assert (said or "let @app.data return (x, y)") in " ".join(done.stderr.split())


def test_schemes_lists_what_a_name_stands_for(hansa: Any) -> None:
    listed = json_lines(hansa("data", "schemes", "--json").stdout)
    assert [scheme["name"] for scheme in listed] == [*SCHEMES, *ALIASES]


def test_a_terminal_shows_shades(hansa: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hansa.cli.data.in_terminal", lambda: True)
    many = LABELLED.replace("% 4", "% 25").replace("label_count:2", "iid")
    shown = hansa("data", "show", written(tmp_path, many), "--clients", 2, COLUMNS="200").stdout
    assert "client-0" in shown
    assert "and 5 more labels; --json or --output shows all" in shown
