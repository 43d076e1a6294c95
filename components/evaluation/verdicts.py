"""What the gate says of a model: every rule with what was asked and found, and the decision.

Verdict ─ to_json ─▶ verdict.json ─ rows ─────▶ the table on the terminal and in the report
                                  └ compact ──▶ a tag of the version
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Decision = Literal["promoted", "kept", "rejected"]
Outcome = Literal[
    "not a number", "rule missed", "first", "not comparable", "too little data", "not better", "better"
]

HEADER = ("rule", "asked", "found", "holds")


@dataclass(frozen=True)
class Rule:
    """One thing that was checked, with the values it was checked on."""

    name: str  # number | floor | ceiling | slice | examples | size | latency | champion | comparable | ...
    holds: bool
    sentence: str
    asked: str
    found: str
    metric: str = ""
    slice: str = ""
    value: float | None = None  # the new model's
    low: float | None = None
    high: float | None = None
    against: float | None = None  # the limit, or the champion's value

    @property
    def title(self) -> str:
        """Which rule this is, for people."""
        return f"{self.name}: {', '.join(filter(None, (self.slice, self.metric)))}".removesuffix(": ")


@dataclass(frozen=True)
class Obstacle:
    """Why a champion cannot be compared, and what to do about it."""

    reason: str
    hint: str


@dataclass(frozen=True)
class Verdict:
    """The decision, every rule in the order it was checked, and what the decision rests on."""

    decision: Decision
    outcome: Outcome
    reasons: tuple[str, ...]
    rules: tuple[Rule, ...]
    metric: str  # what the new model had to be better on
    value: float | None
    champion_value: float | None
    difference: float | None  # new model minus champion
    low: float | None  # interval of the difference
    high: float | None
    confidence: float
    bootstrap: int
    num_sequences: int
    num_sequences_needed: int | None = None  # to tell the models apart, if the difference is as it seems
    hint: str = ""
    notes: tuple[str, ...] = ()
    champion_registered: float | None = None  # what the champion scored when it was registered
    override: str = ""
    overridden: bool = False
    gate_decision: Decision | None = None  # what was overridden
    gate_reasons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON-able copy; each rule has its title too."""
        rules = [{"title": rule.title, **asdict(rule)} for rule in self.rules]
        return {**asdict(self), "rules": rules}

    def with_note(self, *notes: str) -> "Verdict":
        """The same verdict with more to be said beside it."""
        return replace(self, notes=(*self.notes, *notes))

    def overruled(self, why: str) -> "Verdict":
        """The verdict where a person wants the model promoted whatever the gate says.

        No reason promotes a model whose scores are not numbers.
        """
        if self.decision == "promoted":
            return replace(self, override=why).with_note("The override was not needed: the gate promotes.")
        if self.outcome == "not a number":
            return self.with_note("The override has no effect: the scores of this model are not numbers.")
        return replace(
            self,
            decision="promoted",
            reasons=(f"Promoted by an override: {why}", *self.reasons),
            hint="",
            override=why,
            overridden=True,
            gate_decision=self.decision,
            gate_reasons=self.reasons,
        )


def rows(verdict: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The rules of a stored verdict under HEADER; none of a verdict from before they were told so."""
    return [
        (rule["title"], rule["asked"], rule["found"], "yes" if rule["holds"] else "no")
        for rule in verdict.get("rules", ())
        if "title" in rule
    ]


def compact(verdict: Verdict, *, most: int) -> str:
    """The table as JSON of at most `most` characters.

    Where it is longer, rules that hold are left out from the end, then others, and `left_out` counts them.
    """
    table = [dict(zip(HEADER, row, strict=True)) for row in rows(verdict.to_json())]
    left_out = 0
    while len(text := _compact(verdict, table, left_out)) > most and table:
        holding = [place for place, row in enumerate(table) if row["holds"] == "yes"]
        del table[holding[-1] if holding else -1]
        left_out += 1
    return text


def _compact(verdict: Verdict, table: Sequence[Mapping[str, str]], left_out: int) -> str:
    content = {
        "decision": verdict.decision,
        "outcome": verdict.outcome,
        "overridden": verdict.overridden,
        "rules": list(table),
        "left_out": left_out,
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
