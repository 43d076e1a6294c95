"""Whether a new model takes the alias: floors first, then against the champion on the same rows.

    a score is not a number               rejected
    a floor is missed                     rejected
    no champion yet                       promoted
    the champion is not comparable        kept
    too little data to tell               kept
    the difference is surely better       promoted
    anything else (worse, or a tie)       kept

The difference is resampled in pairs over whole sequences: both models see the same resamples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.evaluation.answers import Answers, read
from components.evaluation.intervals import Interval, interval, resample
from components.evaluation.scoring import measure, number
from components.metrics import METRICS, of_task

# Below this a bootstrap is guesswork (Hesterberg 2015, doi:10.1080/00031305.2015.1089789).
MIN_SEQUENCES = 30

Decision = Literal["promoted", "kept", "rejected"]


@dataclass(frozen=True)
class Rule:
    """One thing that was checked, with the values it was checked on."""

    name: str  # number | floor | champion | comparable | enough data | better
    holds: bool
    sentence: str
    metric: str = ""
    value: float | None = None  # the new model's
    low: float | None = None
    high: float | None = None
    against: float | None = None  # the floor, or the champion's value


@dataclass(frozen=True)
class Verdict:
    """The decision, every rule in the order it was checked, and what the decision rests on."""

    decision: Decision
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

    def to_json(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


def decide(
    challenger: pa.Table,
    champion: pa.Table | None,
    *,
    task: str,
    labels: Sequence[str],
    floors: Mapping[str, float],
    better_on: str,
    confidence: float,
    bootstrap: int,
    seed: int = 0,
    comparable: str | None = None,
    scheme: str = "none",
) -> Verdict:
    """The verdict on a new model.

    Args:
        challenger: its predictions; only the rows of split `test` count.
        champion: those of the model that holds the alias, made now on the same rows; None when there is
            no such model, or when it cannot answer them.
        floors: least value on the test rows by metric.
        better_on: the metric on which the champion must be beaten.
        comparable: why the champion cannot be compared; None when it can.
        scheme: of the tags that the labels are: none, BIO or BIOES.
    """
    challenger = _test_rows(challenger)
    answers = read(challenger, task=task, labels=labels, scheme=scheme)
    case = _Case(answers, task, better_on, confidence, bootstrap, seed)
    rules = [case.numbers()]
    if rules[0].holds:
        rules += [case.floor(name, least) for name, least in floors.items()]
    if broken := tuple(rule.sentence for rule in rules if not rule.holds):
        return replace(case.blank(), decision="rejected", rules=tuple(rules), reasons=broken)
    if comparable is None and champion is not None:
        champion = _test_rows(champion)
        comparable = _other_rows(challenger, champion)
    if comparable is not None:
        rule = Rule("comparable", False, f"The champion is not comparable: {comparable.rstrip('.')}.")
        return _end(case.blank(), "kept", rules, rule)
    if champion is None:
        rule = Rule("champion", True, "This is the first model: there is no champion yet.")
        return _end(case.blank(), "promoted", rules, rule)
    return case.against(read(champion, task=task, labels=labels, scheme=scheme), rules)


def _end(blank: Verdict, decision: Decision, rules: Sequence[Rule], last: Rule) -> Verdict:
    """The verdict that the last rule decides; a promotion also rests on the floors."""
    floors = [rule.sentence for rule in rules if rule.name == "floor"] if decision == "promoted" else []
    return replace(blank, decision=decision, rules=(*rules, last), reasons=(*floors, last.sentence))


def _test_rows(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["split"], "test"))


def _other_rows(challenger: pa.Table, champion: pa.Table) -> str | None:
    same = all(challenger[name].equals(champion[name]) for name in ("row", "truth"))
    return None if same else "it answered other rows"


@dataclass(frozen=True)
class _Case:
    """The new model's answers and the terms of the comparison."""

    answers: Answers
    task: str
    metric: str
    confidence: float
    bootstrap: int
    seed: int

    def measure(self, name: str) -> tuple[float | None, float | None, float | None]:
        """A metric of the new model with its bounds."""
        scores = measure(
            self.answers,
            task=self.task,
            bootstrap=self.bootstrap,
            confidence=self.confidence,
            seed=self.seed,
            metrics=(name,),
        )
        return scores[name], scores[f"{name}_low"], scores[f"{name}_high"]

    def blank(self) -> Verdict:
        return Verdict(
            decision="kept",
            reasons=(),
            rules=(),
            metric=self.metric,
            value=number(_value(self.answers, self.metric)),
            champion_value=None,
            difference=None,
            low=None,
            high=None,
            confidence=self.confidence,
            bootstrap=self.bootstrap,
            num_sequences=len(self.answers),
        )

    def numbers(self) -> Rule:
        """Whether the scores are numbers: NaN passes nothing and beats nothing."""
        if not len(self.answers):
            return Rule("number", False, "There are no test rows to judge the model on.")
        broken = [name for name in of_task(self.task) if math.isnan(_value(self.answers, name))]
        if not broken and math.isinf(_value(self.answers, self.metric)):
            broken = [self.metric]
        if broken:
            return Rule("number", False, f"Not a number on the test rows: {', '.join(broken)}.")
        return Rule("number", True, "Every score is a number.")

    def floor(self, name: str, least: float) -> Rule:
        """Whether the value itself reaches the floor; its interval is only told."""
        value, low, high = self.measure(name)
        holds = value is not None and value >= least
        does = "reaches" if holds else "misses"
        told = f"{name} {_shown(value)}{_bounds(low, high, self.confidence)} {does} the floor of {least:g}."
        return Rule("floor", holds, told, name, value, low, high, least)

    def against(self, champion: Answers, rules: Sequence[Rule]) -> Verdict:
        """The verdict where a champion answered the same rows."""
        value, theirs = _value(self.answers, self.metric), _value(champion, self.metric)
        blank = replace(self.blank(), champion_value=number(theirs))
        if not math.isfinite(theirs):
            sentence = f"The champion's {self.metric} on these rows is not a number."
            return _end(blank, "promoted", rules, Rule("better", True, sentence, self.metric, value))
        num_differing = self._num_differing(champion)
        bounds = self._difference(champion, value - theirs)
        blank = replace(blank, difference=value - theirs, low=number(bounds.low), high=number(bounds.high))
        if num_differing == 0:
            told = f"A tie: both models have the same {self.metric} on every sequence."
            return _end(blank, "kept", rules, Rule("better", False, told, self.metric, value, against=theirs))
        better = self._better(value, theirs, bounds)
        if lack := self._lack(num_differing, theirs, bounds):
            rule = Rule("enough data", False, f"Too little data to tell: {lack}.")
            return _end(blank, "kept", [*rules, better], rule)
        return _end(blank, "promoted" if better.holds else "kept", rules, better)

    def _num_differing(self, champion: Answers) -> int:
        """Sequences on which the two models count differently."""
        n = len(self.answers)
        ours, others = (answers.sums(np.arange(n), n) for answers in (self.answers, champion))
        pairs = [(getattr(ours, name), getattr(others, name)) for name in METRICS[self.metric].uses]
        return int(np.any([(a != b).reshape(n, -1).any(axis=1) for a, b in pairs], axis=0).sum())

    def _difference(self, champion: Answers, difference: float) -> Interval:
        ours, others = (
            resample(answers, [self.metric], bootstrap=self.bootstrap, seed=self.seed)[self.metric]
            for answers in (self.answers, champion)
        )
        return interval(difference, ours - others, confidence=self.confidence)

    def _lack(self, num_differing: int, theirs: float, bounds: Interval) -> str:
        """Why the rows cannot tell the models apart; empty when they can."""
        n = len(self.answers)
        if n < MIN_SEQUENCES:
            return f"{n} test sequences, and it takes {MIN_SEQUENCES}"
        # If chance alone favoured either model on each of these, one model would win all of them too often.
        least = math.ceil(math.log2(2 / (1 - self.confidence)))
        if num_differing < least:
            return f"the models differ on {num_differing} of {n:,} sequences, and it takes {least}"
        half, gain = (bounds.high - bounds.low) / 2, abs(METRICS[self.metric].best - theirs)
        if bounds.low <= 0 <= bounds.high and half > gain:
            return (
                f"the difference is known to ±{half:.4f} only, and the champion's {theirs:.4f}"
                f" leaves no more than {gain:.4f} to gain"
            )
        return ""

    def _better(self, value: float, theirs: float, bounds: Interval) -> Rule:
        up = METRICS[self.metric].higher_is_better
        surely_more, surely_less = bounds.low > 0, bounds.high < 0
        holds = surely_more if up else surely_less
        if holds:
            judged = "better"
        elif surely_more or surely_less:
            judged = "worse"
        else:
            judged = "not surely better, since the interval holds zero"
        told = (
            f"{self.metric} {value:.4f} against the champion's {theirs:.4f}: {value - theirs:+.4f}"
            f"{_bounds(bounds.low, bounds.high, self.confidence, signed='+')}, {judged}."
        )
        return Rule("better", holds, told, self.metric, value, against=theirs)


def _value(answers: Answers, metric: str) -> float:
    total = answers.sums(np.zeros(len(answers), np.int64), 1).total()
    return float(METRICS[metric].of(total))


def _shown(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4f}"


def _bounds(low: float | None, high: float | None, confidence: float, *, signed: str = "") -> str:
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f" ({100 * confidence:g} % interval {low:{signed}.4f} to {high:{signed}.4f})"
