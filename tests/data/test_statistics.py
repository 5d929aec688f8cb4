"""What a partition looks like, in numbers and as a picture."""

import math
from itertools import product
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hansa.data import drawing, partition
from hansa.data.statistics import count_labels, gini, partition_labels, statistics
from hansa.errors import InputError, MissingExtraError

few = settings(derandomize=True, deadline=None, max_examples=60)

Counts = npt.NDArray[np.int64]

tables = st.tuples(st.integers(1, 6), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=st.integers(0, 9))
)


@few
@given(counts=tables)
def test_every_number_is_what_its_formula_says(counts: Counts) -> None:
    if not counts.any():
        with pytest.raises(InputError, match="at least one example"):
            statistics(counts)
        return
    found = statistics(counts)
    sizes = [sum(row) for row in counts.tolist()]
    p = [sum(column) / sum(sizes) for column in zip(*counts.tolist(), strict=True)]
    mixes = [[c / size for c in row] for row, size in zip(counts.tolist(), sizes, strict=True) if size]

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    def divergence(a: list[float], b: list[float]) -> float:
        return math.fsum(x * math.log2(x / y) for x, y in zip(a, b, strict=True) if x)

    def shannon(q: list[float]) -> float:
        middle = [(a + b) / 2 for a, b in zip(q, p, strict=True)]
        return math.sqrt(max(0.0, (divergence(q, middle) + divergence(p, middle)) / 2))

    variation = mean([sum(abs(a - b) for a, b in zip(q, p, strict=True)) / 2 for q in mixes])
    hellinger = mean(
        [math.sqrt(sum((math.sqrt(a) - math.sqrt(b)) ** 2 for a, b in zip(q, p, strict=True)) / 2) for q in mixes]
    )
    assert (found.examples, found.smallest, found.largest) == (sum(sizes), min(sizes), max(sizes))
    assert found.labels == sum(share > 0 for share in p)
    assert found.total_variation == pytest.approx(variation, abs=1e-12)
    assert found.earth_mover == pytest.approx(2 * variation, abs=1e-12)
    assert found.hellinger == pytest.approx(hellinger, abs=1e-7)
    assert found.jensen_shannon == pytest.approx(mean([shannon(q) for q in mixes]), abs=1e-7)
    assert found.effective_labels == pytest.approx(mean([2 ** -divergence(q, [1.0] * len(q)) for q in mixes]))
    differences = math.fsum(abs(a - b) for a, b in product(sizes, sizes))
    assert gini(sizes) == pytest.approx(differences / (2 * len(sizes) * sum(sizes)), abs=1e-12)


def test_equal_clients_are_at_no_distance_and_pure_ones_at_most() -> None:
    equal = statistics(np.full((4, 10), 5))
    assert (equal.total_variation, equal.size_gini, equal.effective_labels) == (0, 0, pytest.approx(10))
    pure = statistics(np.eye(4, dtype=int) * 7)
    assert (pure.total_variation, pure.effective_labels) == (pytest.approx(0.75), pytest.approx(1))


def test_labels_are_counted_by_client() -> None:
    labels = np.array([3, 5, 3, 9])
    parts = partition.Partition([0, 1, 0, 2], 4)
    assert partition_labels(parts, labels).tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    names, counts = count_labels([[3, 3], [5], [9], []])
    assert (names, counts.tolist()) == (("3", "5", "9"), partition_labels(parts, labels).tolist())
    with pytest.raises(InputError, match="no client has an example"):
        count_labels([[], []])


def test_a_picture_has_a_bubble_for_each_count_and_says_what_it_is(tmp_path: Path) -> None:
    counts = np.array([[4, 0], [1, 9]])
    names, labels = ["<script>alert(1)</script>", "b&b"], ["cat", 'a "very" long label indeed']
    file = tmp_path / "p.svg"
    drawing.save(file, counts, names, labels, "a <title>")
    root = ET.fromstring(file.read_text(encoding="utf-8"))  # noqa: S314 - written by us
    space = {"s": "http://www.w3.org/2000/svg"}
    circles = root.findall(".//s:circle", space)
    assert [circle.findtext("s:title", "", space) for circle in circles] == [
        "<script>alert(1)</script>: 4 of cat",
        "b&b: 1 of cat",
        'b&b: 9 of a "very" long label indeed',
    ]
    radii = [float(circle.attrib["r"]) for circle in circles]
    assert radii[0] / radii[2] == pytest.approx(math.sqrt(4 / 9), abs=0.01)
    assert not root.findall(".//s:script", space)
    assert "http" not in file.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_a_picture_in_another_format_is_drawn_by_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.array([[4, 0], [1, 9]])
    with monkeypatch.context() as without:
        without.setitem(__import__("sys").modules, "matplotlib.figure", None)
        with pytest.raises(MissingExtraError, match=r"hansa\[plot\]"):
            drawing.save(tmp_path / "p.png", counts, ["a", "b"], ["0", "1"])
    pytest.importorskip("matplotlib")
    drawing.save(tmp_path / "p.png", counts, ["a", "b"], ["0", "1"])
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"p\.xyz cannot be drawn"):
        drawing.save(tmp_path / "p.xyz", counts, ["a", "b"], ["0", "1"])


def test_what_is_too_much_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="too many to draw"):
        drawing.svg(np.ones((1001, 100), int), ["c"] * 1001, ["l"] * 100)
    with pytest.raises(InputError, match="for 1 clients and 3 labels"):
        drawing.svg(np.ones((1, 2), int), ["c"], ["l"] * 3)


def test_a_notebook_shows_a_partition_as_a_picture_and_a_shell_in_words(tmp_path: Path) -> None:
    labels = np.array(["cat", "dog", "cat", "eel", "dog", "cat"])
    parts = partition.Partition([0, 0, 1, 1, 1, 1], 2)
    picture = drawing.Picture(parts, labels, "two")
    assert "1: 2 of cat" in picture._repr_svg_()
    picture.save(tmp_path / "p.svg")
    assert (tmp_path / "p.svg").read_text() == picture._repr_svg_()
    assert repr(parts) == "Partition of 6 samples among 2 clients: 2 to 4 each"
