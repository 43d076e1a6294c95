"""Whether a new model takes the alias: its own limits first, then against the champion on the same rows.

    a score is not a number               rejected   not a number
    a limit is missed                     rejected   rule missed
    no champion yet                       promoted   first
    the champion is not comparable        kept       not comparable
    too little data to tell               kept       too little data
    the difference is surely better       promoted   better
    anything else (worse, or a tie)       kept       not better

The difference is resampled in pairs over whole sequences: both models see the same resamples, and each
resample works the metric out anew.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.evaluation import measures
from components.evaluation.answers import Answers, read
from components.evaluation.intervals import Interval, Resamples, interval
from components.evaluation.requirements import Found, Measured, beside, bounds, ceiling, floor, shown
from components.evaluation.sample_sizes import to_tell
from components.evaluation.scoring import measure, number
from components.evaluation.verdicts import Decision, Obstacle, Outcome, Rule, Verdict
from components.metrics import METRICS
from conf.schema import GateSettings

# Below this a bootstrap is guesswork (Hesterberg 2015, doi:10.1080/00031305.2015.1089789).
MIN_SEQUENCES = 30
NUMBERS_HINT = "Look at the inputs and at the losses of training; not even an override promotes such a model."
MISSED_HINT = (
    "Train a better model or change what `gate` asks; or promote it all the same, with a reason: "
    "`recurra register CONF --override TEXT`."
)
LITTLE_HINT = (
    "Hold more rows out for the test (`data.split`). Until then the champion stays, unless a person decides "
    "otherwise: `recurra register CONF --override TEXT`."
)
# Numbers wherever the answers are: others may be undefined for rows that say nothing of them.
ALWAYS_NUMBERS = ("loss", "accuracy", "ece")
OTHER_ROWS = Obstacle(
    "it answered other rows",
    "Please report this with the run folder: both models are given the same rows.",
)


def decide(
    challenger: pa.Table,
    champion: pa.Table | None,
    *,
    task: str,
    labels: Sequence[str],
    gate: GateSettings,
    bootstrap: int,
    seed: int = 0,
    measured: Measured | None = None,
    obstacle: Obstacle | None = None,
    scheme: str = "none",
) -> Verdict:
    """The verdict on a new model.

    Args:
        challenger: its predictions; only the rows of split `test` count. Both tables have the probability of
            every label where the models are compared on an area under a curve.
        champion: those of the model that holds the alias, made now on the same rows; None when there is
            no such model, or when it cannot answer them.
        gate: what the model must reach, and the metric on which the champion must be beaten.
        measured: what else the limits of the gate are held against.
        obstacle: why the champion cannot be compared; None when it can.
        scheme: of the tags that the labels are: none, BIO or BIOES.
    """
    challenger = _test_rows(challenger)
    answers = read(challenger, task=task, labels=labels, scheme=scheme)
    case = _Case(answers, task, tuple(labels), gate, bootstrap, seed)
    rules = [case.numbers()]
    if not rules[0].holds:
        return case.end("rejected", "not a number", rules, hint=NUMBERS_HINT)
    rules += [*case.limits(), *beside(gate, measured or Measured())]
    if not all(rule.holds for rule in rules):
        return case.end("rejected", "rule missed", rules, hint=MISSED_HINT)
    if obstacle is None and champion is not None:
        champion = _test_rows(champion)
        obstacle = _other_rows(challenger, champion)
    if obstacle is not None:
        return case.end("kept", "not comparable", [*rules, _incomparable(obstacle)], hint=obstacle.hint)
    if champion is None:
        told = "This is the first model: there is no champion yet."
        rules.append(Rule("champion", True, told, "a champion to beat", "none yet"))
        return case.end("promoted", "first", rules)
    # The champion's rows are the same ones, so they are of the same groups.
    theirs = replace(read(champion, task=task, labels=labels, scheme=scheme), groups=case.answers.groups)
    return case.against(theirs, rules)


def _incomparable(obstacle: Obstacle) -> Rule:
    told = f"The champion is not comparable: {obstacle.reason.rstrip('.')}."
    return Rule("comparable", False, told, "a champion that can answer the same rows", obstacle.reason)


def _test_rows(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["split"], "test"))


def _other_rows(challenger: pa.Table, champion: pa.Table) -> Obstacle | None:
    same = all(challenger[name].equals(champion[name]) for name in ("row", "truth"))
    return None if same else OTHER_ROWS


@dataclass(frozen=True)
class _Case:
    """The new model's answers and the terms of the comparison."""

    answers: Answers
    task: str
    labels: tuple[str, ...]
    gate: GateSettings
    bootstrap: int
    seed: int

    @property
    def metric(self) -> str:
        return self.gate.better_on

    @cached_property
    def better_on(self) -> measures.Measure:
        """What the champion must be beaten on."""
        return measures.of(self.metric)

    @cached_property
    def value(self) -> float:
        """The new model's, of what the champion must be beaten on."""
        return self.better_on.value(self.answers)

    def measure(self, name: str) -> Found:
        """A metric of the new model with its bounds."""
        scores = measure(
            self.answers,
            task=self.task,
            bootstrap=self.bootstrap,
            confidence=self.gate.confidence,
            seed=self.seed,
            metrics=(name,),
        )
        return scores[name], scores[f"{name}_low"], scores[f"{name}_high"]

    def end(
        self, decision: Decision, outcome: Outcome, rules: Sequence[Rule], *, hint: str = "", **more: Any
    ) -> Verdict:
        """The verdict that these rules come to; `more` are fields of it."""
        return Verdict(
            decision=decision,
            outcome=outcome,
            reasons=_reasons(decision, rules),
            rules=tuple(rules),
            metric=self.metric,
            value=number(self.value),
            **{"champion_value": None, "difference": None, "low": None, "high": None, **more},
            confidence=self.gate.confidence,
            bootstrap=self.better_on.num_resamples(self.answers, self.bootstrap),
            num_sequences=len(self.answers),
            hint=hint,
        )

    def numbers(self) -> Rule:
        """Whether the scores are numbers: NaN passes nothing and beats nothing."""
        asked = "every score is a number"
        if not len(self.answers):
            told = "There are no test rows to judge the model on."
            return Rule("number", False, told, asked, "no test rows")
        values = {name: measures.of(name).value(self.answers) for name in ALWAYS_NUMBERS}
        values[self.metric] = self.value
        broken = [name for name, value in values.items() if math.isnan(value)]
        if not broken and math.isinf(self.value):
            broken = [self.metric]
        if broken:
            found = ", ".join(broken)
            why = self.better_on.reason(self.answers, self.labels) if self.metric in broken else ""
            told = f"Not a number on the test rows: {found}. {why}".rstrip()
            return Rule("number", False, told, asked, f"not: {found}")
        return Rule("number", True, "Every score is a number.", asked, "they are")

    def limits(self) -> list[Rule]:
        """The rules on the test rows as a whole."""
        confidence = self.gate.confidence
        floors = [(name, least) for name, least in self.gate.floors.items() if name in METRICS]
        ceilings = self.gate.ceilings.items()
        return [
            *(floor(name, self.measure(name), least, confidence=confidence) for name, least in floors),
            *(ceiling(name, self.measure(name), most, confidence=confidence) for name, most in ceilings),
        ]

    def against(self, champion: Answers, rules: Sequence[Rule]) -> Verdict:
        """The verdict where a champion answered the same rows."""
        value, theirs = self.value, self.better_on.value(champion)
        more: dict[str, Any] = {"champion_value": number(theirs)}
        if not math.isfinite(theirs):
            sentence = f"The champion's {self.metric} on these rows is not a number."
            rule = self._rule(True, sentence, theirs, shown(number(value)))
            return self.end("promoted", "better", [*rules, rule], **more)
        num_differing = self.better_on.num_differing(self.answers, champion)
        resamples = self._difference(champion)
        found = interval(value - theirs, resamples, confidence=self.gate.confidence)
        more |= {"difference": value - theirs, "low": number(found.low), "high": number(found.high)}
        if num_differing == 0:
            rule = self._rule(False, f"A tie: {self.better_on.tie}.", theirs, "the same on every sequence")
            return self.end("kept", "not better", [*rules, rule], **more)
        better = self._better(value, theirs, found)
        lack = self._lack(num_differing, theirs, found)
        if better.holds and not lack:
            return self.end("promoted", "better", [*rules, better], **more)
        if not lack and (found.low > 0 or found.high < 0):
            return self.end("kept", "not better", [*rules, better], **more)
        needed = more["num_sequences_needed"] = self._needed(value - theirs, resamples, num_differing)
        told = self._would_tell(needed, value - theirs)
        if not lack:
            return self.end("kept", "not better", [*rules, better], **more).with_note(told)
        lacking = f"Too little data to tell: {lack}. {told}"
        asked = self._would_do(needed, value - theirs)
        rule = Rule("enough data", False, lacking, asked, f"{self.answers.num_independent:,}")
        return self.end("kept", "too little data", [*rules, better, rule], hint=LITTLE_HINT, **more)

    def _difference(self, champion: Answers) -> Resamples:
        """The difference on resampled sequences, both models on the same ones."""
        ours, others = (
            self.better_on.resample(answers, bootstrap=self.bootstrap, seed=self.seed)
            for answers in (self.answers, champion)
        )
        return ours - others

    def _lack(self, num_differing: int, theirs: float, found: Interval) -> str:
        """Why the rows cannot tell the models apart; empty when they can."""
        n, num_independent = len(self.answers), self.answers.num_independent
        if num_independent < MIN_SEQUENCES:
            return f"{num_independent} {self._units}, and it takes {MIN_SEQUENCES}"
        if num_differing < self._least_differing:
            takes = self._least_differing
            return f"the models differ on {num_differing} of {n:,} sequences, and it takes {takes}"
        if self.least is not None and self.least[1] < self._least_differing:
            label, count = self.labels[self.least[0]], self.least[1]
            return f"{count} {self._units} are of the label {label!r}, and it takes {self._least_differing}"
        half, gain = (found.high - found.low) / 2, abs(self.better_on.best - theirs)
        if found.low <= 0 <= found.high and half > gain:
            return (
                f"the difference is known to ±{half:.4f} only, and the champion's {theirs:.4f}"
                f" leaves no more than {gain:.4f} to gain"
            )
        return ""

    @cached_property
    def least(self) -> tuple[int, int] | None:
        """The class that limits what the rows can tell, and on how many of them it stands."""
        return self.better_on.least(self.answers)

    @property
    def _units(self) -> str:
        """What the rows that would tell are counted in: what the bootstrap draws."""
        return "test sequences" if self.answers.groups is None else "test groups of sequences"

    def _would_tell(self, needed: int | None, difference: float) -> str:
        if needed is None and difference == 0:
            return f"No number of {self._units} would tell, as long as the models score the same."
        if needed is None:
            return f"How many {self._units} would tell cannot be said: these are too few to see them vary."
        told = f"About {_about(needed)} {self._units} would tell"
        return f"{told}, if the difference is truly {difference:+.4f}."

    def _would_do(self, needed: int | None, difference: float) -> str:
        """What is asked where there is too little data."""
        if needed is not None:
            return f"about {_about(needed)} {self._units}"
        return "a difference other than zero" if difference == 0 else f"more {self._units}"

    @property
    def _least_differing(self) -> int:
        """If chance alone favoured either model on each of fewer, one would win all of them too often."""
        return math.ceil(math.log2(2 / (1 - self.gate.confidence)))

    def _needed(self, difference: float, resamples: Resamples, num_differing: int) -> int | None:
        """About how many sequences would tell the models apart; None where no number can be given."""
        needed = to_tell(difference, resamples, confidence=self.gate.confidence)
        if needed is None:
            return None
        n = len(resamples.without)
        fewest = num_differing if self.least is None else min(num_differing, self.least[1])
        return max(needed, math.ceil(n * self._least_differing / fewest), MIN_SEQUENCES, n + 1)

    def _better(self, value: float, theirs: float, found: Interval) -> Rule:
        up = self.better_on.higher_is_better
        surely_more, surely_less = found.low > 0, found.high < 0
        holds = surely_more if up else surely_less
        if holds:
            judged = "better"
        elif surely_more or surely_less:
            judged = "worse"
        else:
            judged = "not surely better, since the interval holds zero"
        told = (
            f"{self.metric} {value:.4f} against the champion's {theirs:.4f}: {value - theirs:+.4f}"
            f"{bounds(found.low, found.high, self.gate.confidence, sign='+')}, {judged}."
        )
        by = f"{value - theirs:+.4f}{bounds(found.low, found.high, sign='+')}"
        return self._rule(holds, told, theirs, f"{value:.4f}: {by}")

    def _rule(self, holds: bool, sentence: str, theirs: float, found: str) -> Rule:
        """The rule that the champion must be beaten."""
        than = "above" if self.better_on.higher_is_better else "below"
        return Rule(
            name="better",
            holds=holds,
            sentence=sentence,
            asked=f"surely {than} the champion's {shown(number(theirs))}",
            found=found,
            metric=self.metric,
            value=number(self.value),
            against=number(theirs),
        )


def _reasons(decision: Decision, rules: Sequence[Rule]) -> tuple[str, ...]:
    """The sentences that a decision rests on.

    A rejection rests on every rule that was missed, and what is said of the champion on the last rule; a
    promotion also on the limits that were kept, those of slices in one sentence.
    """
    if decision == "rejected":
        return tuple(rule.sentence for rule in rules if not rule.holds)
    if decision == "kept":
        return (rules[-1].sentence,)
    limits = [rule.sentence for rule in rules[1:-1] if rule.name != "slice"]
    num_slices = sum(rule.name == "slice" for rule in rules)
    slices = [f"Every floor on slices is reached ({num_slices} of {num_slices})."] if num_slices else []
    return (*limits, *slices, rules[-1].sentence)


def _about(num: int) -> str:
    """A number rounded up to its first two digits."""
    unit = 10 ** max(0, len(str(num)) - 2)
    return f"{math.ceil(num / unit) * unit:,}"
