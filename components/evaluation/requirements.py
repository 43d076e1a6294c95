"""What a model must reach whatever the champion does: a rule for each limit of the gate's settings.

floors, ceilings   a metric on the test rows; of scores from all probabilities, as the evaluation has them
slices             a metric on some of them, from evaluation/slices.json
examples           rows that must come out right, from evaluation/examples.json
max_size_mb, max_latency_ms
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from components.evaluation.latencies import Latency
from components.evaluation.verdicts import Rule
from conf.schema import GateSettings
from conf.sections import RANKING_METRICS

NUM_SHOWN = 30
# Why there is no area under a curve, and no accuracy among the top.
NO_AREA = "they hold no label beside others, or are too many for one evaluation"
NO_TOP = "there are no more labels than that, or the rows are too many for one evaluation"

Slices = Mapping[str, Sequence[Mapping[str, Any]]]
Found = tuple[float | None, float | None, float | None]  # a score and its bounds


@dataclass(frozen=True)
class Measured:
    """What is known of a model beside its answers to the test rows."""

    slices: Slices = field(default_factory=dict)  # by family, the parts with their metrics
    examples: Mapping[str, Any] | None = None  # {"num", "num_right", "rows"}
    size_mb: float | None = None
    latency: Latency | None = None
    ranking: Mapping[str, Any] = field(default_factory=dict)  # scores from all probabilities, with bounds


def beside(gate: GateSettings, measured: Measured) -> Iterator[Rule]:
    """The rules on ranking, slices, examples, size and latency, as far as they were asked for."""
    for metric, least in gate.floors.items():
        if metric in RANKING_METRICS:
            yield _ranking(metric, measured.ranking, least, confidence=gate.confidence)
    for name, floors in gate.slices.items():
        yield from _slices(name, floors, measured.slices, confidence=gate.confidence)
    if measured.examples is not None and measured.examples["num"]:
        yield _examples(gate.examples, measured.examples)
    if gate.max_size_mb is not None and measured.size_mb is not None:
        yield _size(gate.max_size_mb, measured.size_mb)
    if gate.max_latency_ms is not None and measured.latency is not None:
        yield _latency(gate.max_latency_ms, measured.latency)


def floor(metric: str, found: Found, least: float, *, confidence: float, part: str = "") -> Rule:
    """Whether the value itself reaches the floor; its interval is only told. `part` is a slice's name."""
    value = found[0]
    holds = value is not None and value >= least
    words = f"{'reaches' if holds else 'misses'} the floor of {least:g}", f"at least {least:g}"
    name = "slice" if part else "floor"
    return _limit(name, holds, metric, found, least, words, confidence=confidence, part=part)


def _ranking(metric: str, scores: Mapping[str, Any], least: float, *, confidence: float) -> Rule:
    """The floor of a score that only all probabilities together have; one that does not exist misses it."""
    found = scores.get(metric), scores.get(f"{metric}_low"), scores.get(f"{metric}_high")
    rule = floor(metric, found, least, confidence=confidence)
    if found[0] is not None:
        return rule
    why = NO_TOP if metric.startswith("top_") else NO_AREA
    return replace(rule, sentence=f"There is no {metric} on the test rows: {why}.")


def ceiling(metric: str, found: Found, most: float, *, confidence: float) -> Rule:
    """Whether the value itself stays under the ceiling; its interval is only told."""
    value = found[0]
    holds = value is not None and value <= most
    words = f"{'stays under' if holds else 'is over'} the ceiling of {most:g}", f"at most {most:g}"
    return _limit("ceiling", holds, metric, found, most, words, confidence=confidence)


def _limit(
    name: str,
    holds: bool,
    metric: str,
    found: Found,
    limit: float,
    words: tuple[str, str],
    *,
    confidence: float,
    part: str = "",
) -> Rule:
    """The rule that a limit makes; `words` are what the value does, and what was asked."""
    value, low, high = found
    does, asked = words
    where = f" on {part}" if part else ""
    return Rule(
        name=name,
        holds=holds,
        sentence=f"{metric} {shown(value)}{bounds(low, high, confidence)}{where} {does}.",
        asked=asked,
        found=f"{shown(value)}{bounds(low, high)}",
        metric=metric,
        slice=part,
        value=value,
        low=low,
        high=high,
        against=limit,
    )


def name_of(family: str, part: Mapping[str, Any]) -> str:
    """The name of a slice, which slices from before they had names get from their range."""
    return str(part.get("name") or f"{family} {part.get('low')} to {part.get('high')}")


def _slices(name: str, floors: Mapping[Any, float], slices: Slices, *, confidence: float) -> Iterator[Rule]:
    """A rule for each metric and each slice that the name means: one of them, or all of a family."""
    named = [(name_of(family, part), part) for family, parts in slices.items() for part in parts]
    found = (
        [(name_of(name, part), part) for part in slices[name]]
        if name in slices
        else [(each, part) for each, part in named if each == name]
    )
    if not found:
        yield _no_such_slice(name, slices, [each for each, _ in named])
    for metric, limit in floors.items():
        for each, part in found:
            value = part.get(metric) if part.get("num_sequences") else None
            scored = value, part.get(f"{metric}_low"), part.get(f"{metric}_high")
            yield floor(metric, scored, limit, confidence=confidence, part=each)


def _no_such_slice(name: str, slices: Slices, names: Sequence[str]) -> Rule:
    families = [family for family, parts in slices.items() if parts]
    told = ", ".join(map(repr, [*families, *names[:NUM_SHOWN]])) or "none"
    more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return Rule(
        name="slice",
        holds=False,
        sentence=f"gate.slices names {name!r}, but no test rows are such a slice; there are: {told}{more}.",
        asked="a slice of the test rows",
        found="no such slice",
        slice=name,
    )


def _examples(share: float, examples: Mapping[str, Any]) -> Rule:
    num, num_right = examples["num"], examples["num_right"]
    holds = num_right / num >= share
    wrong = next((row for row in examples.get("rows", ()) if not row.get("right", True)), None)
    first = "" if holds or wrong is None else f"; the first wrong one is {_place(wrong)}"
    return Rule(
        name="examples",
        holds=holds,
        sentence=f"{num_right} of {num} behaviour examples are right, and {100 * share:g} % must be{first}.",
        asked=f"{100 * share:g} % right",
        found=f"{num_right} of {num} right",
        value=num_right / num,
        against=share,
    )


def _place(row: Mapping[str, Any]) -> str:
    file = f" of {row['file']}" if row.get("file") else ""
    return f"row {row.get('row')}{file}: expected {row.get('expected')}, answered {row.get('answered')}"


def _size(limit: float, size: float) -> Rule:
    holds = size <= limit
    return Rule(
        name="size",
        holds=holds,
        sentence=f"The model takes {size:.3g} MB on disk, {'within' if holds else 'over'} the {limit:g} MB "
        "that it may.",
        asked=f"at most {limit:g} MB",
        found=f"{size:.3g} MB",
        value=size,
        against=limit,
    )


def _latency(limit: float, latency: Latency) -> Rule:
    holds = latency.milliseconds <= limit
    measured = f"{latency.milliseconds:.3g} ms"
    on = f"{latency.num_rows} test rows one at a time on {latency.machine}"
    return Rule(
        name="latency",
        holds=holds,
        sentence=f"95 of 100 answers took at most {measured}, {'within' if holds else 'over'} the "
        f"{limit:g} ms that they may ({on}).",
        asked=f"95 of 100 within {limit:g} ms",
        found=f"{measured}: {on}",
        value=latency.milliseconds,
        against=limit,
    )


def shown(value: float | None) -> str:
    """A score, for people."""
    return "not a number" if value is None else f"{value:.4f}"


def bounds(low: float | None, high: float | None, confidence: float | None = None, *, sign: str = "") -> str:
    """An interval in brackets, with its confidence where that is given; empty where there is none."""
    if low is None or high is None or low != low or high != high:
        return ""
    kind = "" if confidence is None else f"{100 * confidence:g} % interval "
    return f" ({kind}{low:{sign}.4f} to {high:{sign}.4f})"
