"""When a new model takes the alias: every line of the table of decisions."""

import json

import numpy as np
import pyarrow as pa
import pytest

from components.evaluation.comparison import MIN_SEQUENCES, decide

LABELS = ("a", "b")
TERMS = {
    "task": "classification",
    "labels": LABELS,
    "floors": {"accuracy": 0.5},
    "better_on": "accuracy",
    "confidence": 0.95,
    "bootstrap": 400,
}
N = 400


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
    verdict = decide(model(300), model(200), **{**TERMS, "floors": {"accuracy": 0.9}})
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


def test_a_gain_that_chance_explains_keeps_the_champion(class_table):
    rng = np.random.default_rng(0)
    truth = ["a"] * N
    ours, theirs = (["a" if right else "b" for right in rng.random(N) < share] for share in (0.82, 0.8))
    verdict = decide(class_table(truth, ours), class_table(truth, theirs), **TERMS)
    assert verdict.decision == "kept"
    assert "not surely better, since the interval holds zero" in verdict.reasons[-1]


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


def test_a_few_test_rows_are_too_few_to_tell(model):
    n = MIN_SEQUENCES - 1
    verdict = decide(model(n, n), model(1, n), **{**TERMS, "floors": {}})
    assert verdict.decision == "kept"
    assert f"{n} test sequences, and it takes {MIN_SEQUENCES}" in verdict.reasons[-1]


def test_a_loss_that_is_no_number_passes_nothing(model):
    verdict = decide(model(300, loss=float("nan")), None, **TERMS)
    assert verdict.decision == "rejected"
    assert "Not a number on the test rows: loss" in verdict.reasons[0]
    infinite = decide(model(300, loss=float("inf")), None, **{**TERMS, "better_on": "loss"})
    assert infinite.decision == "rejected"


def test_a_champion_without_a_number_is_beaten(model):
    verdict = decide(model(300), model(300, loss=float("nan")), **{**TERMS, "better_on": "loss"})
    assert verdict.decision == "promoted"
    assert verdict.reasons[-1] == "The champion's loss on these rows is not a number."


def test_a_lower_loss_is_the_better_one(model):
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.05, N)
    low, high = model(300, loss=0.5 + noise), model(300, loss=0.6 + noise[::-1])
    terms = {**TERMS, "better_on": "loss"}
    assert decide(low, high, **terms).decision == "promoted"
    assert decide(high, low, **terms).decision == "kept"


def test_a_champion_of_other_rows_or_other_labels_is_not_compared(model, class_table):
    other = decide(model(360), model(300, N - 1), **TERMS)
    assert other.decision == "kept"
    assert other.reasons == ("The champion is not comparable: it answered other rows.",)
    reason = "it knows the labels 'a', 'z'."
    verdict = decide(model(360), None, comparable=reason, **TERMS)
    assert verdict.reasons == ("The champion is not comparable: it knows the labels 'a', 'z'.",)


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
    assert json.loads(json.dumps(verdict.to_json(), allow_nan=False))["decision"] == "promoted"


def test_span_f1_can_be_the_metric_of_the_gate_and_a_floor(label_table):
    terms = {**TERMS, "task": "labelling", "labels": ("B-X", "I-X", "O"), "scheme": "BIO"}
    terms |= {"better_on": "span_f1", "floors": {"span_f1": 0.5}}
    truth = [["B-X", "I-X", "O"]] * 200
    good, bad = label_table(truth, truth), label_table(truth, [["I-X", "I-X", "O"]] * 200)
    rejected = decide(bad, None, **terms)
    assert rejected.decision == "rejected"
    assert "span_f1" in rejected.reasons[0]
    mixed = label_table(truth, [*truth[:150], *[["I-X", "I-X", "O"]] * 50])
    assert decide(good, mixed, **terms).decision == "promoted"
    assert decide(mixed, good, **terms).decision == "kept"
