"""Charts are well-formed, carry their numbers, and show whatever text as text."""

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from components.evaluation import charts

NASTY = '<script>alert("1")</script> & co'
SVG = "{http://www.w3.org/2000/svg}"


def parsed(drawing: str) -> ElementTree.Element:
    root = ElementTree.fromstring(drawing)
    assert root.tag == f"{SVG}svg"
    assert root.findtext(f"{SVG}title")
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter() if element.tag in (f"{SVG}text", f"{SVG}title")]


def coordinates(root: ElementTree.Element) -> list[float]:
    names = ("x", "y", "cx", "cy", "x1", "x2", "y1", "y2", "width", "height", "r")
    return [float(element.get(name)) for element in root.iter() for name in names if element.get(name)]


ALL = {
    "lines": charts.lines({NASTY: [(1, 0.5), (2, 0.25)], "b": [(1, 3.0)]}, title=NASTY, x_label=NASTY),
    "bars": charts.bars([1, 2, 5], [10, 3], title=NASTY, x_label=NASTY),
    "reliability": charts.reliability(
        [{"confidence": 0.9, "accuracy": 0.8, "count": 10}, {"confidence": 0.1, "accuracy": 0, "count": 1}],
        title=NASTY,
    ),
    "dots": charts.dots([(NASTY, 0.9, 0.8, 0.95), ("b", 0.2, None, None)], title=NASTY),
    "pairs": charts.pairs([(NASTY, 0.25, 0.5), ("b", 0.0, 0.0)], title=NASTY, names=(NASTY, "now")),
    "heat": charts.heat([NASTY, "b"], {(NASTY, "b"): 3, ("b", "b"): 5}, title=NASTY),
    "pictures": charts.frames([[0.0, 1.0] * 64, [1.0, 0.0] * 64], per_step=True, title=NASTY),
    "picture": charts.frames([[0.0] * 28] * 28, per_step=False, title=NASTY),
    "curves": charts.frames([[0.0, 5.0], [1.0, 6.0]], per_step=True, title=NASTY),
}


@pytest.mark.parametrize("name", ALL)
def test_a_chart_is_well_formed_finite_and_safe(name):
    root = parsed(ALL[name])
    assert root.findtext(f"{SVG}title") == NASTY
    assert "<script" not in ALL[name]
    assert all(map(math.isfinite, coordinates(root)))
    # All of it comes from the page itself.
    assert "href" not in ALL[name]


def test_nothing_to_draw_draws_nothing():
    assert charts.lines({}, title="t", x_label="x") == ""
    assert charts.lines({"a": [(1, math.nan)]}, title="t", x_label="x") == ""
    assert charts.bars([1], [], title="t", x_label="x") == ""
    assert charts.reliability([], title="t") == ""


def test_points_that_are_no_numbers_are_left_out():
    root = parsed(charts.lines({"a": [(1, 1.0), (2, math.inf), (3, 2.0)]}, title="t", x_label="x"))
    assert len(root.findall(f"{SVG}circle")) == 2


def test_a_higher_value_is_drawn_higher_and_the_mark_at_its_place():
    root = parsed(charts.lines({"a": [(1, 1.0), (2, 9.0), (3, 5.0)]}, title="t", x_label="x", mark=2))
    circles = root.findall(f"{SVG}circle")
    heights = [float(each.get("cy")) for each in circles]
    assert heights[1] < heights[2] < heights[0]
    (mark,) = [each for each in root.findall(f"{SVG}line") if each.get("class") == "mark"]
    assert mark.get("x1") == circles[1].get("cx")


def test_powers_of_ten_are_equally_far_apart_on_a_logarithmic_scale():
    points = [(1, 1.0), (2, 0.1), (3, 0.01)]
    root = parsed(charts.lines({"a": points}, title="t", x_label="x", log=True))
    one, two, three = (float(each.get("cy")) for each in root.findall(f"{SVG}circle"))
    assert two - one == pytest.approx(three - two, abs=0.2)
    # With a zero there is no logarithm, and the scale stays plain.
    parsed(charts.lines({"a": [*points, (4, 0.0)]}, title="t", x_label="x", log=True))


def test_values_can_be_read_from_the_chart():
    assert "0.9000 (0.8000 to 0.9500)" in texts(parsed(ALL["dots"]))
    assert "0.2000" in texts(parsed(ALL["dots"]))
    assert f"{NASTY} answered as b: 3" in texts(parsed(ALL["heat"]))
    assert "2 to 5: 3" in texts(parsed(ALL["bars"]))
    assert any("b, " in text and ": 3" in text for text in texts(parsed(ALL["lines"])))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.97, 0.99), (-5.0, 12.0), (1e-9, 3e-9), (0.0, 123456.0), (7.0, 7.0)]
)
def test_ticks_are_a_few_round_numbers_within_the_range(low, high):
    found = charts.ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)
    assert all(len(f"{value:g}") <= 7 for value in found)


def test_whole_ticks_leave_out_what_lies_between_whole_numbers():
    assert charts.ticks(1, 3) == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert charts.ticks(1, 3, whole=True) == [1.0, 2.0, 3.0]
    assert charts.ticks(0, 100, whole=True) == charts.ticks(0, 100)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (1e-4, 1e-2, [1e-4, 1e-3, 1e-2]),
        (16, 256, [20, 50, 100, 200]),
        # No power of ten, its double or its fivefold lies between these two.
        (0.31, 0.42, [0.35, 0.4]),
        (1e-12, 1.0, [1e-12, 1e-9, 1e-6, 1e-3, 1.0]),
        (0.3, 0.3, [0.3]),
    ],
)
def test_decades_are_a_few_round_numbers_also_where_the_range_is_narrow(low, high, found):
    assert charts.decades(low, high) == pytest.approx(found)


@pytest.mark.parametrize(
    ("features", "shape"), [(128, (16, 8)), (784, (28, 28)), (16, (4, 4)), (15, None), (30, None), (9, None)]
)
def test_steps_that_may_be_pictures_are_known_by_their_size(features, shape):
    assert charts.picture_shape(features) == shape


def test_the_highest_value_of_a_picture_is_black_and_the_lowest_is_paper():
    step = [0.0] * 15 + [9.0]
    root = parsed(charts.frames([step], per_step=True, title="t"))
    fills = [each.get("fill") for each in root.findall(f"{SVG}rect")]
    assert fills == ["#fff", "#000000"]


def test_a_confusion_matrix_has_a_cell_for_each_pair():
    root = parsed(ALL["heat"])
    cells = [each for each in root.findall(f"{SVG}rect") if "cell" in (each.get("class") or "")]
    assert len(cells) == 4
    shades = [float(each.get("fill-opacity")) for each in cells]
    assert shades == [0.0, 1.0, 0.0, 1.0]


def test_what_a_chart_shows_is_said_in_words_too():
    for name in ("lines", "bars", "reliability", "dots", "pairs", "heat"):
        assert parsed(ALL[name]).findtext(f"{SVG}desc"), name
    said = f"{NASTY} 25.0% then, 50.0% now; b 0.0% then, 0.0% now."
    assert parsed(ALL["pairs"]).findtext(f"{SVG}desc") == said
    assert "5 of 8 answers are right" in (parsed(ALL["heat"]).findtext(f"{SVG}desc") or "")


def test_lines_differ_by_their_dashes_and_carry_their_names_at_their_ends():
    series = {name: [(1, 0.5), (2, 0.5)] for name in "abc"}
    root = parsed(charts.lines(series, title="t", x_label="x"))
    assert len({each.get("stroke-dasharray") for each in root.findall(f"{SVG}polyline")}) == 3
    names = [each for each in root.findall(f"{SVG}text") if "name" in (each.get("class") or "")]
    heights = sorted(float(each.get("y")) for each in names)
    assert [each.text for each in names] == ["a", "b", "c"]
    assert heights[1] - heights[0] >= charts.LINE and heights[2] - heights[1] >= charts.LINE


@pytest.mark.parametrize("places", [[50, 51, 52], [100, 100], [0, 0, 0], [99, 1, 100], [50]])
def test_names_are_moved_apart_and_stay_in_their_order_and_in_the_frame(places):
    moved = charts.spread(places, 0, 100)
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = [moved[i] for i in order]
    assert all(b - a >= charts.LINE - 1e-9 for a, b in pairwise(found))
    assert min(found) >= 0 and max(found) <= 100


def test_counts_stand_in_the_cells_only_where_all_of_them_fit():
    small = parsed(charts.heat(["a", "b"], {("a", "a"): 7, ("b", "a"): 1}, title="t"))
    assert {"7", "1"} <= set(texts(small))
    labels = [chr(97 + i) for i in range(26)]
    large = parsed(charts.heat(labels, {("a", "a"): 700, ("b", "a"): 1}, title="t"))
    assert not {"700", "1"} & {each.text for each in large.findall(f"{SVG}text")}


def test_epochs_are_counted_in_whole_numbers():
    root = parsed(charts.lines({"a": [(1, 0.5), (2, 0.25)]}, title="t", x_label="epoch"))
    assert not [each.text for each in root.findall(f"{SVG}text") if (each.text or "").startswith("1.")]
