"""Charts of a search: every trial at its place, the best one seen first, whatever text shown as text."""

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from components.evaluation import sweep_charts
from components.evaluation.sweep_charts import Axis, Trial, fitted, shade, shortened

NASTY = '<script>alert("1")</script> & co'
SVG = "{http://www.w3.org/2000/svg}"
RATE = Axis("train.learning_rate", 1e-4, 1e-2, log=True)
CELL = Axis("model.cell", labels=("lstm", "gru"))
LOSS = Axis("loss", 0.9, 0.1)
TRIALS = [
    Trial(7, "the seventh", 0.1, {RATE.name: 1e-3, CELL.name: 1}, [(1, 0.8), (2, 0.1)]),
    Trial(2, "the second", 0.5, {RATE.name: 1e-2}, [(1, 0.5)], ended_early=True),
    Trial(4, "the fourth", 0.9, {RATE.name: 1e-4, CELL.name: 0}, [(1, 0.95), (2, 0.9)]),
]


def parsed(drawing: str) -> ElementTree.Element:
    root = ElementTree.fromstring(drawing)
    assert root.findtext(f"{SVG}title")
    return root


def points(line: ElementTree.Element) -> list[tuple[float, float]]:
    pairs = (pair.split(",") for pair in (line.get("points") or "").split())
    return [(float(x), float(y)) for x, y in pairs]


def lines(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """Each trial's line under the text that is said of it, in the order in which they are drawn."""
    return {line.findtext(f"{SVG}title") or "": line for line in root.iter(f"{SVG}polyline")}


def circles(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {each.findtext(f"{SVG}title") or "": each for each in root.iter(f"{SVG}circle")}


def texts(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {each.text or "": each for each in root.iter(f"{SVG}text")}


def all_drawn() -> list[str]:
    nasty = Axis(NASTY, labels=(NASTY, NASTY * 2))
    trials = [Trial(1, NASTY, 0.5, {NASTY: 1}, [(1, 0.5)], ended_early=True), Trial(2, NASTY, 0.6)]
    score = Axis(NASTY, 0.5, 0.6)
    return [
        sweep_charts.parallel([nasty], score, trials, title=NASTY),
        sweep_charts.scatter(nasty, score, trials, title=NASTY),
        sweep_charts.curves(trials, title=NASTY),
        sweep_charts.shares([(NASTY, 0.001), ("b", 0.999)], title=NASTY),
    ]


@pytest.mark.parametrize("drawing", all_drawn(), ids=["parallel", "scatter", "curves", "shares"])
def test_a_chart_is_well_formed_and_safe(drawing):
    assert parsed(drawing).findtext(f"{SVG}title") == NASTY
    assert "<script" not in drawing
    assert "nan" not in drawing
    assert "href" not in drawing


def test_nothing_to_draw_draws_nothing():
    assert sweep_charts.parallel([RATE], LOSS, [], title="t") == ""
    assert sweep_charts.scatter(CELL, LOSS, [TRIALS[1]], title="t") == ""
    assert sweep_charts.curves([Trial(1, "", 0.5)], title="t") == ""
    assert sweep_charts.shares([], title="t") == ""


def test_an_axis_goes_from_its_start_to_its_end():
    assert [RATE.share(value) for value in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert [LOSS.share(value) for value in (0.9, 0.7, 0.1)] == pytest.approx([0, 0.25, 1])
    assert [CELL.share(number) for number in (0, 1)] == [0.25, 0.75]
    assert Axis("a", 3.0, 3.0).share(3.0) == 0.5


def test_the_marks_of_an_axis_are_round_values_or_its_labels():
    assert [label for _, label in RATE.marks()] == ["0.0001", "0.001", "0.01"]
    assert [label for _, label in Axis("layers", 1, 3, whole=True).marks()] == ["1", "2", "3"]
    assert CELL.marks() == [(0.25, "lstm"), (0.75, "gru")]
    assert Axis("loss", 0.123456789, 0.123456789).marks() == [(0.5, "0.1235")]


def test_a_line_meets_each_axis_at_its_trials_value():
    root = parsed(sweep_charts.parallel([RATE, CELL], LOSS, TRIALS, title="t"))
    axes = [
        each
        for each in root.findall(f"{SVG}line")
        if each.get("class") == "axis" and each.get("x1") == each.get("x2")
    ]
    top, bottom = float(axes[0].get("y1")), float(axes[0].get("y2"))
    drawn = {name: points(line) for name, line in lines(root).items()}
    for name, shares in {"the seventh": (0.5, 0.75, 1.0), "the fourth": (0.0, 0.25, 0.0)}.items():
        assert [x for x, _ in drawn[name]] == pytest.approx([float(each.get("x1")) for each in axes], abs=0.1)
        expected = [bottom - share * (bottom - top) for share in shares]
        assert [y for _, y in drawn[name]] == pytest.approx(expected, abs=0.1)


def test_a_setting_that_was_not_searched_is_drawn_below_its_axis():
    root = parsed(sweep_charts.parallel([RATE, CELL], LOSS, TRIALS, title="t"))
    (_, rate), (x, y), _ = points(lines(root)["the second"])
    bottom = max(at for line in lines(root).values() for at in (points(line)[0][1], points(line)[2][1]))
    assert y > bottom >= rate
    stub = texts(root)["not searched"]
    assert float(stub.get("y")) == pytest.approx(y + 4, abs=0.1)
    assert 0 < float(stub.get("x")) - x < 10
    complete = parsed(sweep_charts.parallel([RATE], LOSS, TRIALS, title="t"))
    assert "not searched" not in texts(complete)
    assert float(complete.get("height")) < float(root.get("height"))


def test_the_best_line_is_the_thickest_and_on_top_and_one_that_ended_early_the_thinnest():
    drawn = lines(parsed(sweep_charts.parallel([RATE, CELL], LOSS, TRIALS, title="t")))
    assert list(drawn) == ["the fourth", "the second", "the seventh"]
    widths = {name: float(line.get("stroke-width")) for name, line in drawn.items()}
    assert widths["the second"] < widths["the fourth"] < widths["the seventh"]
    assert drawn["the seventh"].get("class") == "trial best"


def test_colours_go_by_fifths_from_the_best_to_the_worst():
    assert [shade(rank, 10) for rank in range(10)] == ["v4"] * 2 + ["v3"] * 2 + ["v2"] * 2 + ["v1"] * 2 + [
        "v0"
    ] * 2
    assert shade(0, 1) == "v4"
    assert shade(1, 2) == "v2"


@pytest.mark.parametrize("num_axes", [1, 2, 12])
def test_texts_of_a_parallel_chart_neither_overlap_nor_leave_it(num_axes):
    axes = [
        Axis(f"section.of.settings.{i}.with_a_name_that_is_long", labels=("x" * 40,)) for i in range(num_axes)
    ]
    root = parsed(sweep_charts.parallel(axes, LOSS, [Trial(1, "one", 0.1)], title="t"))
    for row in ("14", "30"):
        headings = [each for each in root.iter(f"{SVG}text") if each.get("y") == row and each.text]
        spans = sorted(
            (float(each.get("x")) - 3.3 * len(each.text), float(each.get("x")) + 3.3 * len(each.text))
            for each in headings
        )
        assert all(end < start for (_, end), (start, _) in pairwise(spans))
        assert spans[0][0] >= 0
        assert spans[-1][1] <= float(root.get("width"))


def test_a_dot_stands_at_its_setting_and_its_score():
    drawn = circles(parsed(sweep_charts.scatter(RATE, LOSS, TRIALS, title="t")))
    best, second, fourth = (drawn[f"trial {each.number}: {each.score:g}"] for each in TRIALS)
    xs = [float(each.get("cx")) for each in (fourth, best, second)]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    ys = [float(each.get("cy")) for each in (best, second, fourth)]
    assert ys[0] < ys[1] < ys[2]
    assert [each.get("class") for each in (best, second, fourth)] == ["best", "hollow", "dot"]
    assert float(best.get("r")) > float(fourth.get("r"))
    assert list(drawn)[-1] == "trial 7: 0.1"


def test_dots_of_one_choice_stand_apart_but_near_its_label():
    trials = [Trial(i, "", 0.5, {CELL.name: i % 2}) for i in range(20)]
    root = parsed(sweep_charts.scatter(CELL, LOSS, trials, title="t"))
    at = {label: float(texts(root)[label].get("x")) for label in CELL.labels}
    drawn = circles(root)
    for i in range(20):
        x = float(drawn[f"trial {i}: 0.5"].get("cx"))
        assert abs(x - at[CELL.labels[i % 2]]) < abs(x - at[CELL.labels[1 - i % 2]])
    assert len({each.get("cx") for each in drawn.values()}) == 20


def test_a_trial_without_the_setting_has_no_dot():
    assert "trial 2: 0.5" not in circles(parsed(sweep_charts.scatter(CELL, LOSS, TRIALS, title="t")))


def test_labels_too_long_for_their_places_are_slanted_and_keep_their_whole_text():
    label = "{filters: [16], widths: [8]}"
    axis = Axis("model.branch", labels=("null", label))
    root = parsed(sweep_charts.scatter(axis, LOSS, [Trial(1, "", 0.5, {axis.name: 1})], title="t"))
    (slanted,) = [each for each in root.iter(f"{SVG}text") if each.findtext(f"{SVG}title") == label]
    assert "rotate" in (slanted.get("transform") or "")
    assert len(slanted.text or "") <= 10


def test_curves_lie_where_their_scores_are_and_the_best_is_drawn_last():
    root = parsed(sweep_charts.curves(TRIALS, title="t"))
    drawn = lines(root)
    assert list(drawn) == ["trial 4: 0.9", "trial 2: 0.5", "trial 7: 0.1"]
    assert [line.get("class") for line in drawn.values()] == ["curve", "curve", "trial best"]
    (x1, y1), (x2, y2) = points(drawn["trial 7: 0.1"])
    assert x1 < x2
    assert y1 < y2
    ((x, y),) = points(drawn["trial 2: 0.5"])
    assert x == x1
    # From 0.1 to 0.95, linearly.
    highest = points(drawn["trial 4: 0.9"])[0][1]
    assert (y2 - y) / (y2 - highest) == pytest.approx((0.5 - 0.1) / (0.95 - 0.1), abs=0.01)


def test_only_trials_that_ended_early_end_in_a_dot():
    root = parsed(sweep_charts.curves(TRIALS, title="t"))
    (dot,) = root.iter(f"{SVG}circle")
    assert [(float(dot.get("cx")), float(dot.get("cy")))] == points(lines(root)["trial 2: 0.5"])


def test_curves_of_positive_scores_can_be_spaced_by_powers_of_ten():
    falling = [Trial(1, "", 0.01, {}, [(1, 1.0), (2, 0.1), (3, 0.01)])]
    ((_, one), (_, two), (_, three)) = points(
        lines(parsed(sweep_charts.curves(falling, title="t", log=True)))["trial 1: 0.01"]
    )
    assert two - one == pytest.approx(three - two, abs=0.2)


def test_bars_are_as_long_as_their_shares():
    root = parsed(sweep_charts.shares([("a", 0.6), ("b", 0.3), ("c", 0.001), ("d", 0.0)], title="t"))
    widths = [float(each.get("width")) for each in root.iter(f"{SVG}rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.1)
    assert {"60%", "30%", "<1%", "0%"} <= set(texts(root))


def test_text_is_shortened_only_where_it_is_too_long():
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"


def test_labels_that_would_look_alike_are_numbered():
    assert fitted(["null", "{filters: [1]}"], 9) == ["null", "{filters…"]
    assert fitted(["{filters: [1]}", "{filters: [2]}"], 9) == ["1: {filt…", "2: {filt…"]


def test_no_coordinate_is_infinite_where_all_trials_are_alike():
    same = [Trial(i, f"{i}", 0.5, {RATE.name: 1e-3}, [(1, 0.5)]) for i in range(3)]
    score = Axis("loss", 0.5, 0.5, log=True)
    for drawing in (
        sweep_charts.parallel([RATE], score, same, title="t"),
        sweep_charts.scatter(RATE, score, same, title="t"),
    ):
        root = parsed(drawing)
        found = [y for line in root.iter(f"{SVG}polyline") for _, y in points(line)]
        found += [float(each.get("cy")) for each in root.iter(f"{SVG}circle")]
        assert all(map(math.isfinite, found))
