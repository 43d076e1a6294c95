"""What is kept of a verdict, and what becomes of it when a person decides otherwise."""

import json
from dataclasses import replace

import pytest

from components.evaluation.verdicts import HEADER, Rule, Verdict, compact, rows

MISSED = Rule(
    "floor", False, "accuracy 0.5 misses.", "at least 0.9", "0.5000", metric="accuracy", against=0.9
)


def verdict(**changes) -> Verdict:
    fields = {
        "decision": "rejected", "outcome": "rule missed", "reasons": ("It missed.",), "rules": (MISSED,),
        "metric": "accuracy", "value": 0.5, "champion_value": None, "difference": None, "low": None,
        "high": None, "confidence": 0.95, "bootstrap": 100, "num_sequences": 50, "hint": "Train more.",
    }  # fmt: skip
    return Verdict(**{**fields, **changes})


def test_a_rule_is_called_by_its_kind_and_what_it_is_about():
    assert MISSED.title == "floor: accuracy"
    on_slice = replace(MISSED, name="slice", slice="length 2 to 4")
    assert on_slice.title == "slice: length 2 to 4, accuracy"
    assert replace(MISSED, name="size", metric="").title == "size"


def test_a_stored_verdict_gives_the_table_back_and_one_from_before_gives_none():
    stored = json.loads(json.dumps(verdict().to_json()))
    assert rows(stored) == [("floor: accuracy", "at least 0.9", "0.5000", "no")]
    assert len(HEADER) == len(rows(stored)[0])
    for rule in stored["rules"]:
        del rule["title"]
    assert rows(stored) == rows({"decision": "kept"}) == []


def test_an_override_promotes_and_keeps_what_the_gate_said():
    found = verdict().overruled("The old one is broken.")
    assert (found.decision, found.overridden, found.override) == ("promoted", True, "The old one is broken.")
    assert found.reasons == ("Promoted by an override: The old one is broken.", "It missed.")
    assert (found.gate_decision, found.gate_reasons) == ("rejected", ("It missed.",))
    assert (found.outcome, found.rules, found.hint) == ("rule missed", (MISSED,), "")


@pytest.mark.parametrize("outcome", ["not comparable", "too little data", "not better"])
def test_an_override_takes_the_place_of_a_champion_that_would_be_kept(outcome):
    found = verdict(decision="kept", outcome=outcome).overruled("So be it.")
    assert (found.decision, found.gate_decision, found.outcome) == ("promoted", "kept", outcome)


def test_an_override_of_a_promotion_is_not_needed():
    found = verdict(decision="promoted", outcome="first").overruled("So be it.")
    assert not found.overridden
    assert found.reasons == ("It missed.",)
    assert found.notes == ("The override was not needed: the gate promotes.",)


def test_no_reason_promotes_a_model_whose_scores_are_not_numbers():
    found = verdict(outcome="not a number").overruled("So be it.")
    assert (found.decision, found.overridden, found.gate_decision) == ("rejected", False, None)
    assert found.notes == ("The override has no effect: the scores of this model are not numbers.",)


def test_a_table_too_long_for_a_tag_loses_first_the_rules_that_hold():
    kept = [replace(MISSED, name="slice", slice=f"length {i}", holds=True) for i in range(100)]
    long = verdict(rules=(*kept[:50], MISSED, *kept[50:]))
    short = json.loads(compact(long, most=2000))
    assert len(compact(long, most=2000)) <= 2000
    assert [each["rule"] for each in short["rules"] if each["holds"] == "no"] == ["floor: accuracy"]
    assert short["rules"][0]["rule"] == "slice: length 0, accuracy"
    assert short["left_out"] + len(short["rules"]) == 101
    whole = json.loads(compact(long, most=100_000))
    assert (whole["left_out"], len(whole["rules"]), whole["decision"]) == (0, 101, "rejected")
    many = verdict(rules=(MISSED,) * 100)
    assert len(compact(many, most=500)) <= 500
