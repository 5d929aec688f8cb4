import math

from hansa.cli.chart import area, sparkline


def test_a_sparkline_goes_from_the_least_to_the_greatest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"


def test_a_long_series_is_averaged_into_the_width() -> None:
    assert sparkline([0, 2, 10, 12], width=2) == "▁█"


def test_a_number_that_is_none_leaves_a_gap() -> None:
    assert sparkline([0, math.nan, 1]) == "▁ █"


def test_equal_numbers_are_a_level_line() -> None:
    assert len(set(sparkline([3.0, 3.0, 3.0]))) == 1


def test_nothing_yet_is_an_empty_chart() -> None:
    assert sparkline([]) == ""
    assert [line[9:].strip() for line in area([], width=10, total=10)] == [""] * 4


def test_an_area_has_the_greatest_on_top_and_leaves_room_for_what_comes() -> None:
    lines = area([0.0, 1.0], width=8, height=2, total=4)
    assert lines == ["      1 ┤  ██    ", "      0 ┤▁▁██    "]
