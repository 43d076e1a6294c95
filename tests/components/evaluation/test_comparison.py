"""When a new model takes the alias: every line of the table of decisions."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sklearn

from components.evaluation.comparison import MIN_SEQUENCES, decide
from components.evaluation.requirements import Measured
from components.evaluation.verdicts import Obstacle
from conf.schema import GateSettings

LABELS = ("a", "b")
N = 400


def terms(**gate) -> dict:
    """What a verdict is spoken on; keyword arguments change the gate."""
    settings = GateSettings.model_validate({"floors": {"accuracy": 0.5}, **gate})
    return {"task": "classification", "labels": LABELS, "gate": settings, "bootstrap": 400}


TERMS = terms()


@pytest.fixture
def model(class_table):
    """Predictions with the first `right` answers right."""

    def make(right: int, n: int = N, **options) -> pa.Table:
        truth = ["ab"[i % 2] for i in range(n)]
        said = [label if i < right else "ba"[i % 2] for i, label in enumerate(truth)]
        return class_table(truth, said, **options)

    return make


def test_the_first_model_is_promoted_above_its_floors_only(model):
    verdict = decide(model(300), None, **TERMS)
    assert verdict.decision == "promoted"
    assert verdict.reasons[-1] == "This is the first model: there is no champion yet."
    assert "reaches the floor of 0.5" in verdict.reasons[0]
    below = decide(model(199), None, **TERMS)
    assert below.decision == "rejected"
    assert "misses the floor of 0.5" in below.reasons[0]
    assert decide(model(200), None, **TERMS).decision == "promoted"


def test_a_floor_binds_even_a_model_that_beats_the_champion(model):
    verdict = decide(model(300), model(200), **terms(floors={"accuracy": 0.9}))
    assert verdict.decision == "rejected"


def test_a_surely_better_model_is_promoted_and_a_worse_one_not(model):
    better = decide(model(360), model(300), **TERMS)
    assert better.decision == "promoted"
    assert better.difference == pytest.approx(60 / N)
    assert 0 < better.low < better.difference < better.high
    worse = decide(model(300), model(360), **TERMS)
    assert worse.decision == "kept"
    assert worse.reasons[-1].endswith("worse.")
    assert (worse.low, worse.high) == (pytest.approx(-better.high), pytest.approx(-better.low))


def test_a_tie_keeps_the_champion(model):
    verdict = decide(model(300), model(300), **TERMS)
    assert verdict.decision == "kept"
    assert verdict.reasons == ("A tie: both models have the same accuracy on every sequence.",)
    assert (verdict.outcome, verdict.num_sequences_needed) == ("not better", None)


def test_a_gain_that_chance_explains_keeps_the_champion(class_table):
    rng = np.random.default_rng(0)
    truth = ["a"] * N
    ours, theirs = (["a" if right else "b" for right in rng.random(N) < share] for share in (0.82, 0.8))
    verdict = decide(class_table(truth, ours), class_table(truth, theirs), **TERMS)
    assert verdict.decision == "kept"
    assert "not surely better, since the interval holds zero" in verdict.reasons[-1]


def test_so_many_rows_as_would_tell_do_tell(class_table):
    """The two models of n rows and the same two of the rows that it would take."""

    def tables(times: int):
        ours, theirs = ["a"] * 330 * times + ["b"] * 70 * times, ["b"] * 80 * times + ["a"] * 320 * times
        return (class_table(["a"] * N * times, said) for said in (ours, theirs))

    ours, theirs = tables(1)
    verdict = decide(ours, theirs, **TERMS)
    assert (verdict.decision, verdict.outcome) == ("kept", "not better")
    needed = verdict.num_sequences_needed
    # By hand: +1 on 80 rows and -1 on 70 of 400, so s^2 = 400 / 399 * (150 / 400 - 0.025^2).
    assert needed == math.ceil(1.959964**2 * 400 / 399 * (0.375 - 0.025**2) / 0.025**2)
    assert verdict.notes == ("About 2,400 test sequences would tell, if the difference is truly +0.0250.",)
    below, enough = math.floor(0.8 * needed / N), math.ceil(1.2 * needed / N)
    assert below < enough
    assert decide(*tables(below), **TERMS).outcome == "not better"
    assert decide(*tables(enough), **TERMS).outcome == "better"


def test_no_number_of_rows_tells_models_apart_that_score_the_same(class_table):
    truth = ["a"] * N
    ours, theirs = ["b"] * 40 + ["a"] * 360, ["a"] * 360 + ["b"] * 40
    verdict = decide(class_table(truth, ours), class_table(truth, theirs), **TERMS)
    assert (verdict.outcome, verdict.difference, verdict.num_sequences_needed) == ("not better", 0.0, None)
    assert verdict.notes[0].startswith("No number of test sequences would tell")


def test_a_difference_lost_in_the_spread_says_how_many_rows_would_show_it(class_table):
    truth = ["a"] * 40
    ours, theirs = ["b"] * 2 + ["a"] * 38, ["a"] * 35 + ["b"] * 5
    verdict = decide(class_table(truth, ours), class_table(truth, theirs), **TERMS)
    assert verdict.outcome == "too little data"
    assert "leaves no more than 0.1250 to gain. About" in verdict.reasons[0]
    # By hand: +1 on 5 rows and -1 on 2 of 40, so s^2 = 40 / 39 * (7 / 40 - (3 / 40)^2).
    variance = 40 / 39 * (7 / 40 - (3 / 40) ** 2)
    assert verdict.num_sequences_needed == math.ceil(1.959964**2 * variance / (3 / 40) ** 2)


def test_models_that_are_right_on_the_same_rows_are_told_apart_by_few_differences(model, class_table):
    # Unpaired, 12 answers of 400 would vanish in the spread of either score.
    verdict = decide(model(392), model(380), **TERMS)
    assert verdict.decision == "promoted"
    assert verdict.high - verdict.low < 0.04


def test_the_order_of_the_rows_has_no_say_in_the_bounds(model):
    order = np.random.default_rng(1).permutation(N)
    straight = decide(model(360), model(300), **TERMS)
    shuffled = decide(model(360).take(order), model(300).take(order), **TERMS)
    assert (shuffled.low, shuffled.high) == pytest.approx((straight.low, straight.high), abs=1e-12)


def test_a_few_differing_rows_are_too_few_to_tell(model):
    verdict = decide(model(304), model(300), **TERMS)
    assert verdict.decision == "kept"
    assert "the models differ on 4 of 400 sequences, and it takes 6" in verdict.reasons[-1]
    assert verdict.outcome == "too little data"
    # The same share of differing rows gives six of them on half as many rows again.
    assert verdict.num_sequences_needed == 600
    assert "About 600 test sequences would tell, if the difference is truly +0.0100." in verdict.reasons[-1]


def test_a_few_test_rows_are_too_few_to_tell(model):
    n = MIN_SEQUENCES - 1
    verdict = decide(model(n, n), model(1, n), **terms(floors={}))
    assert verdict.decision == "kept"
    assert f"{n} test sequences, and it takes {MIN_SEQUENCES}" in verdict.reasons[-1]
    assert verdict.num_sequences_needed == MIN_SEQUENCES
    assert (verdict.rules[-1].asked, verdict.rules[-1].found) == ("about 30 test sequences", "29")
    assert "data.split" in verdict.hint


def test_a_loss_that_is_no_number_passes_nothing(model):
    verdict = decide(model(300, loss=float("nan")), None, **TERMS)
    assert verdict.decision == "rejected"
    assert "Not a number on the test rows: loss" in verdict.reasons[0]
    infinite = decide(model(300, loss=float("inf")), None, **terms(better_on="loss"))
    assert infinite.decision == "rejected"


def test_a_champion_without_a_number_is_beaten(model):
    verdict = decide(model(300), model(300, loss=float("nan")), **terms(better_on="loss"))
    assert verdict.decision == "promoted"
    assert verdict.reasons[-1] == "The champion's loss on these rows is not a number."


def test_a_lower_loss_is_the_better_one(model):
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.05, N)
    low, high = model(300, loss=0.5 + noise), model(300, loss=0.6 + noise[::-1])
    verdict = decide(low, high, **terms(better_on="loss"))
    assert verdict.decision == "promoted"
    assert verdict.rules[-1].asked.startswith("surely below the champion's 0.59")
    assert decide(high, low, **terms(better_on="loss")).decision == "kept"


def test_a_champion_of_other_rows_or_other_labels_is_not_compared(model, class_table):
    other = decide(model(360), model(300, N - 1), **TERMS)
    assert other.decision == "kept"
    assert other.reasons == ("The champion is not comparable: it answered other rows.",)
    obstacle = Obstacle("it knows the labels 'a', 'z'.", "Correct the data.")
    verdict = decide(model(360), None, obstacle=obstacle, **TERMS)
    assert verdict.reasons == ("The champion is not comparable: it knows the labels 'a', 'z'.",)
    assert (verdict.outcome, verdict.hint) == ("not comparable", "Correct the data.")


def test_only_test_rows_count(model, class_table):
    test, valid = model(360), model(0, split="valid")
    verdict = decide(pa.concat_tables([test, valid]), None, **TERMS)
    assert verdict.value == pytest.approx(0.9)
    assert verdict.num_sequences == N
    nothing = decide(model(300, split="valid"), None, **TERMS)
    assert nothing.decision == "rejected"
    assert nothing.reasons == ("There are no test rows to judge the model on.",)


def test_every_rule_is_kept_in_order_with_its_numbers(model):
    verdict = decide(model(360), model(300), **TERMS)
    assert [(rule.name, rule.holds) for rule in verdict.rules] == [
        ("number", True),
        ("floor", True),
        ("better", True),
    ]
    floor = verdict.rules[1]
    assert (floor.metric, floor.value, floor.against) == ("accuracy", 0.9, 0.5)
    assert floor.low < 0.9 < floor.high
    assert [rule.title for rule in verdict.rules] == ["number", "floor: accuracy", "better: accuracy"]
    assert (floor.asked, floor.found) == ("at least 0.5", f"0.9000 ({floor.low:.4f} to {floor.high:.4f})")
    better = verdict.rules[2]
    assert better.asked == "surely above the champion's 0.7500"
    assert better.found == f"0.9000: +0.1500 ({verdict.low:+.4f} to {verdict.high:+.4f})"
    assert json.loads(json.dumps(verdict.to_json(), allow_nan=False))["decision"] == "promoted"


@pytest.mark.parametrize(
    ("case", "decision", "outcome", "reason"),
    [
        ("equal", "kept", "not better", "A tie"),
        ("slightly worse", "kept", "not better", "not surely better"),
        ("slightly better", "kept", "not better", "not surely better"),
        ("clearly worse", "kept", "not better", "worse."),
        ("clearly better", "promoted", "better", "better."),
        ("few rows", "kept", "too little data", "20 test sequences, and it takes 30"),
        ("NaN", "rejected", "not a number", "Not a number on the test rows: loss"),
        ("below its floor", "rejected", "rule missed", "misses the floor of 0.5"),
        ("other labels", "kept", "not comparable", "it lacks 'b'"),
        ("no champion", "promoted", "first", "there is no champion yet"),
        ("champion NaN", "promoted", "better", "The champion's loss on these rows is not a number"),
    ],
)
def test_the_verdict_of_each_case(class_table, model, case, decision, outcome, reason):
    def apart(ours: int, theirs: int):
        """Models of 300 right answers in common, and some that only one of them has right."""
        truth = ["a"] * N
        common, said = ["a"] * 300, ["b"] * (100 - ours - theirs)
        tables = (["a"] * ours + ["b"] * theirs, ["b"] * ours + ["a"] * theirs)
        return tuple(class_table(truth, [*common, *own, *said]) for own in tables)

    cases = {
        "equal": (model(300), model(300)),
        "slightly worse": apart(25, 30),
        "slightly better": apart(30, 25),
        "clearly worse": apart(10, 60),
        "clearly better": apart(60, 10),
        "few rows": (model(20, 20), model(12, 20)),
        "NaN": (model(300, loss=math.nan), model(200)),
        "below its floor": (model(100), model(50)),
        "other labels": (model(300), None),
        "no champion": (model(300), None),
        "champion NaN": (model(300), model(300, loss=math.nan)),
    }
    challenger, champion = cases[case]
    given = terms(better_on="loss") if case == "champion NaN" else TERMS
    if case == "other labels":
        given = {**given, "obstacle": Obstacle("its labels are others: it lacks 'b'", "Correct the data.")}
    verdict = decide(challenger, champion, **given)
    assert (verdict.decision, verdict.outcome) == (decision, outcome)
    assert reason in verdict.reasons[-1]
    assert json.loads(json.dumps(verdict.to_json(), allow_nan=False))["outcome"] == outcome


def test_a_ceiling_is_for_what_is_better_when_it_is_smaller(model):
    verdict = decide(model(300, loss=0.3), None, **terms(ceilings={"loss": 0.3, "ece": 0.5}))
    assert verdict.decision == "promoted"
    assert "stays under the ceiling of 0.3" in verdict.reasons[1]
    over = decide(model(300, loss=0.31), None, **terms(ceilings={"loss": 0.3}))
    assert (over.decision, over.outcome) == ("rejected", "rule missed")
    assert over.reasons == ("loss 0.3100 (95 % interval 0.3100 to 0.3100) is over the ceiling of 0.3.",)
    assert "--override" in over.hint


def test_what_a_promotion_rests_on_tells_slices_in_one_sentence(model):
    slices = {"length": [{"low": i, "high": i, "num_sequences": 9, "accuracy": 0.9} for i in range(40)]}
    given = {**terms(slices={"length": {"accuracy": 0.8}}), "measured": Measured(slices=slices)}
    verdict = decide(model(300), None, **given)
    assert verdict.decision == "promoted"
    assert verdict.reasons[1:] == (
        "Every floor on slices is reached (40 of 40).",
        "This is the first model: there is no champion yet.",
    )
    slices["length"][7]["accuracy"] = 0.7
    missed = decide(model(300), None, **given)
    assert missed.decision == "rejected"
    assert missed.reasons == ("accuracy 0.7000 on length 7 to 7 misses the floor of 0.8.",)


def test_a_confidence_that_is_no_number_passes_nothing(model):
    sure = [0.9] * N
    sure[0] = math.nan
    verdict = decide(model(300, probability=sure), None, **TERMS)
    assert verdict.outcome == "not a number"
    assert verdict.reasons == ("Not a number on the test rows: ece.",)


def test_rows_of_few_groups_are_too_few_to_tell_and_those_of_many_are_drawn_by_group(class_table):
    right = [True] * 90 + [False] * 30
    table, other = (
        class_table(["a"] * 120, ["a" if each else "b" for each in said]) for said in (right, right[::-1])
    )
    few, many = (
        decide(
            table.append_column("group", pa.array([f"g{row // size}" for row in range(120)])), other, **TERMS
        )
        for size in (10, 2)
    )
    assert few.reasons[0].startswith("Too little data to tell: 12 test groups of sequences, and it takes 30.")
    single = decide(table, other, **TERMS)
    assert many.high - many.low > 1.2 * (single.high - single.low)


def test_span_f1_can_be_the_metric_of_the_gate_and_a_floor(label_table):
    tags = {"task": "labelling", "labels": ("B-X", "I-X", "O"), "scheme": "BIO"}
    given = {**terms(better_on="span_f1", floors={"span_f1": 0.5}), **tags}
    truth = [["B-X", "I-X", "O"]] * 200
    good, bad = label_table(truth, truth), label_table(truth, [["I-X", "I-X", "O"]] * 200)
    rejected = decide(bad, None, **given)
    assert rejected.decision == "rejected"
    assert "span_f1" in rejected.reasons[0]
    mixed = label_table(truth, [*truth[:150], *[["I-X", "I-X", "O"]] * 50])
    assert decide(good, mixed, **given).decision == "promoted"
    assert decide(mixed, good, **given).decision == "kept"


@pytest.fixture
def ranker(class_table, with_distribution):
    """Predictions of a two-label model whose scores of `b` lie `skill` apart, with noise of its own."""

    def make(skill: float, *, truth=None, n: int = N, seed: int = 0) -> pa.Table:
        truth = ["ab"[i % 2] for i in range(n)] if truth is None else truth
        common, own = np.random.default_rng(99), np.random.default_rng(seed)
        score = common.normal(0, 1, len(truth)) + own.normal(0, 0.3, len(truth))
        score += skill * np.array([label == "b" for label in truth])
        of_b = 1 / (1 + np.exp(-(score - skill / 2)))
        said = ["b" if each > 0.5 else "a" for each in of_b]
        return with_distribution(class_table(truth, said), np.stack([1 - of_b, of_b], axis=1))

    return make


@pytest.mark.parametrize("metric", ["roc_auc", "pr_auc"])
def test_a_model_that_ranks_better_is_promoted_and_one_that_ranks_worse_is_not(ranker, metric):
    given = terms(better_on=metric)
    good, bad = ranker(2.0, seed=1), ranker(1.2, seed=2)
    verdict = decide(good, bad, **given)
    assert (verdict.decision, verdict.outcome, verdict.metric) == ("promoted", "better", metric)
    truth = [label == "b" for label in good["truth"].to_pylist()]
    score = {"roc_auc": sklearn.roc_auc_score, "pr_auc": sklearn.average_precision_score}[metric]
    ours, theirs = (
        np.mean([score(of, [row[place] for row in table["distribution"].to_pylist()])
                 for place, of in ((1, truth), (0, np.logical_not(truth)))])
        for table in (good, bad)
    )  # fmt: skip
    assert (verdict.value, verdict.champion_value) == pytest.approx((ours, theirs))
    assert 0 < verdict.low < verdict.difference < verdict.high
    worse = decide(bad, good, **given)
    assert (worse.decision, worse.outcome) == ("kept", "not better")
    assert worse.reasons[-1].endswith("worse.")


def test_models_that_rank_alike_are_a_tie_whatever_their_probabilities(ranker, with_distribution):
    one = ranker(1.5)
    sharper = np.array(one["distribution"].to_pylist()) ** 3
    sharper /= sharper.sum(axis=1, keepdims=True)
    other = with_distribution(one.drop_columns(["distribution"]), sharper)
    verdict = decide(one, other, **terms(better_on="roc_auc"))
    assert verdict.reasons == ("A tie: both models rank the sequences in the same way.",)


def test_so_many_rows_as_would_tell_rankings_apart_do_tell(ranker):
    """The two models of n rows and the same two of the rows that it would take."""
    given = terms(better_on="roc_auc")
    pair = ranker(1.5, seed=5), ranker(1.45, seed=6)

    def times(count: int):
        places = pa.array(range(count * N), pa.int64())
        tables = (pa.concat_tables([table] * count) for table in pair)
        return [table.set_column(1, "row", places).set_column(9, "place", places) for table in tables]

    verdict = decide(*pair, **given)
    assert verdict.outcome == "not better"
    assert verdict.notes[0].startswith("About 1,300 test sequences would tell, if the difference is truly")
    below, enough = (round(share * verdict.num_sequences_needed / N) for share in (0.7, 1.3))
    assert (below, enough) == (2, 4)
    assert decide(*times(below), **given).outcome == "not better"
    assert decide(*times(enough), **given).outcome == "better"


def test_a_label_on_a_few_rows_cannot_tell_rankings_apart(ranker):
    truth = ["a"] * 395 + ["b"] * 5
    verdict = decide(ranker(4.0, truth=truth), ranker(0.0, truth=truth), **terms(better_on="roc_auc"))
    assert verdict.outcome == "too little data"
    assert "5 test sequences are of the label 'b', and it takes 6. About 480 test" in verdict.reasons[-1]
    assert verdict.num_sequences_needed == 480


def test_where_one_row_is_all_there_is_of_a_label_no_number_of_rows_can_be_given(ranker):
    truth = ["a"] * 399 + ["b"]
    verdict = decide(ranker(4.0, truth=truth), ranker(0.0, truth=truth), **terms(better_on="pr_auc"))
    assert (verdict.outcome, verdict.num_sequences_needed) == ("too little data", None)
    assert "How many test sequences would tell cannot be said" in verdict.reasons[-1]
    assert verdict.rules[-1].asked == "more test sequences"


def test_a_ranking_that_does_not_exist_passes_nothing_and_says_why(ranker, model):
    given = terms(better_on="roc_auc")
    single = decide(ranker(1.0, truth=["a"] * 50), None, **given)
    assert single.outcome == "not a number"
    assert single.reasons == (
        "Not a number on the test rows: roc_auc. Every test row is of the label 'a', so there is none to tell"
        " it from.",
    )
    too_many = decide(model(300), None, **given)
    assert "too many for one evaluation" in too_many.reasons[0]
    nothing = decide(ranker(1.0).slice(0, 0), None, **given)
    assert nothing.reasons == ("There are no test rows to judge the model on.",)


def test_equal_rankings_are_seldom_called_better(ranker):
    """Two models that rank equally well: at a confidence of 0.95 one in forty is promoted by chance."""
    given = terms(better_on="roc_auc", floors={}) | {"bootstrap": 200}
    truth = ["ab"[i % 2] for i in range(100)]
    verdicts = [
        decide(ranker(1.0, truth=truth, seed=2 * i), ranker(1.0, truth=truth, seed=2 * i + 1), **given)
        for i in range(100)
    ]
    assert sum(verdict.decision == "promoted" for verdict in verdicts) <= 6
