"""A report is one file that asks nothing of anybody."""

import html.parser
import math
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from hansa.experiments.chart import Chart, Line, drawn
from hansa.experiments.report import Fact, Report, page
from hansa.experiments.summary import Band

VOID = {"meta", "br", "img", "input", "link"}


class Reader(html.parser.HTMLParser):
    """Every tag with its attributes, all of which are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def band(*seeds: list[float]) -> Band:
    values = np.array(seeds)
    return Band(np.arange(1.0, values.shape[1] + 1), values.mean(0), values.min(0), values.max(0))


CURVES = Chart("central.accuracy", "of two", [Line("a < b", band([0.1, 0.5, 0.7], [0.3, 0.5, 0.9]))])
REPORT = Report(
    title="<script>alert(1)</script>",
    subtitle="& so on",
    facts=[Fact("Best", "0.9", "of <all>")],
    charts=[CURVES],
    table=[{"row": "one", "measured": 0.5, "verdict": "✔ reproduced"}, {"row": "two", "measured": math.nan}],
    strong=0,
    notes=["a <note>"],
    files={"table.csv": "this table"},
)


def test_it_parses_and_refers_to_nothing_outside() -> None:
    text = page(REPORT)
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    tags = {tag for tag, _ in reader.found}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    addresses = [
        value for _, attributes in reader.found for name, value in attributes.items() if name in {"href", "src"}
    ]
    assert addresses == ["table.csv"]
    assert not re.search(r"https?://|//\w|@import|url\(", text)
    assert "default-src 'none'" in text


def test_names_are_text() -> None:
    text = page(REPORT)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "a &lt; b" in text


def test_a_chart_is_drawn_within_its_frame_with_its_last_value() -> None:
    text = drawn(CURVES)
    picture = ET.fromstring(text[: text.index("</svg>") + 6])  # noqa: S314 - our own
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    paths = [part for part in picture if part.tag == "path"]
    assert [path.attrib["class"] for path in paths] == ["band s0", "line s0"]
    points = [tuple(map(float, p.split(","))) for path in paths for p in re.findall(r"[\d.]+,[\d.]+", path.attrib["d"])]
    assert len(points) == 6 + 3
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    assert "<b>0.8000</b>" in text


@pytest.mark.parametrize(
    ("values", "pieces", "dots"),
    [
        ([1.0, 2.0, math.nan, 4.0, 5.0], 2, 0),  # a gap where nothing was measured
        ([math.nan, 2.0, math.nan, 4.0], 1, 0),  # measured in every second round
        ([3.0], 1, 1),
    ],
)
def test_gaps_stay_gaps(values: list[float], pieces: int, dots: int) -> None:
    text = drawn(Chart("m", "", [Line("x", band(values))]))
    line = re.search(r'class="line s0" d="([^"]*)"', text)
    assert line is not None
    assert line[1].count("M") == pieces
    assert text.count("<circle") == dots


def test_values_of_many_magnitudes_have_a_logarithmic_axis() -> None:
    text = drawn(Chart("distance", "", [Line("x", band([1.0, 1e-3, 1e-6]))]))
    heights = [float(y) for y in re.findall(r"[\d.]+,([\d.]+)", text.split('class="line')[1])][:3]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert "1e-6" in text


def test_nothing_measured_is_said() -> None:
    assert "Nothing was measured" in drawn(Chart("m", "", [Line("x", band([math.nan]))]))
