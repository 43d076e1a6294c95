"""What is no fault but worth a look: sentences for the console, the profile and the report."""

from collections.abc import Iterator, Mapping
from typing import Any

FEW = 5
ABSURD = 50
LOW_COVERAGE = 0.9
NUM_NAMED = 5


def notices(profile: Mapping[str, Any]) -> list[str]:
    """Sentences about a profile, the most telling first."""
    return [
        *_rare_labels(profile),
        *_absent_labels(profile),
        *_illegal_tags(profile),
        *_constant_features(profile),
        *_gaps(profile),
        *_vectors(profile),
        *_coverage(profile),
        *_lengths(profile),
    ]


def _rare_labels(profile: Mapping[str, Any]) -> Iterator[str]:
    counts = profile["splits"]["train"]["labels"]
    rare = sorted((label for label, count in counts.items() if count < FEW), key=lambda label: counts[label])
    if rare:
        shown = _named([f"{label!r} ({counts[label]})" for label in rare])
        yield f"Labels that stand fewer than {FEW} times in training, {len(rare)} of {len(counts)}: {shown}."


def _absent_labels(profile: Mapping[str, Any]) -> Iterator[str]:
    for name in ("valid", "test"):
        counts = profile["splits"][name]["labels"]
        absent = [label for label, count in counts.items() if not count]
        if absent:
            shown = _named([repr(label) for label in absent])
            yield f"Labels never in {name}, so not measured there, {len(absent)} of {len(counts)}: {shown}."


def _illegal_tags(profile: Mapping[str, Any]) -> Iterator[str]:
    for name, split in profile["splits"].items():
        pairs: Mapping[str, int] = split.get("illegal_tags") or {}
        if pairs:
            shown = _named([f"{pair} ({count:,})" for pair, count in pairs.items()])
            yield f"Tags in {name} that follow one they may not, {sum(pairs.values()):,}: {shown}."


def _constant_features(profile: Mapping[str, Any]) -> Iterator[str]:
    for each in profile["inputs"]:
        if constant := each.get("constant"):
            shown = _named([str(feature) for feature in constant])
            yield (
                f"Features of {each['column']!r} that are the same in all training steps,"
                f" {len(constant)} of {each['num_features']}: {shown}."
            )


def _gaps(profile: Mapping[str, Any]) -> Iterator[str]:
    for each in profile["inputs"]:
        missing = sum(feature["missing"] for feature in each.get("features", ()))
        if missing:
            yield f"Values of {each['column']!r} missing in training, and filled in: {missing:,}."


def _vectors(profile: Mapping[str, Any]) -> Iterator[str]:
    for each in profile["inputs"]:
        if about := each.get("vectors"):
            found = f"{about['found']:,} of {about['tokens']:,} tokens of {each['column']!r} have a vector"
            further = f"; {about['further']:,} more are known from there" if about["further"] else ""
            yield f"{about['file']}: {found}{further}."
            if about["repeated"]:
                yield f"{about['file']}: repeated tokens, of which the first counts: {about['repeated']:,}."


def _coverage(profile: Mapping[str, Any]) -> Iterator[str]:
    for each in profile["inputs"]:
        coverage = each.get("coverage", {})
        for name in ("valid", "test"):
            if coverage.get(name, 1.0) < LOW_COVERAGE:
                share = f"{coverage[name]:.1%}"
                source = "training or the vectors" if "vectors" in each else "training"
                yield f"Only {share} of the steps of {each['column']!r} in {name} are known from {source}."


def _lengths(profile: Mapping[str, Any]) -> Iterator[str]:
    for name, split in profile["splits"].items():
        lengths = split["lengths"]
        if lengths["max"] > ABSURD * max(1.0, lengths["median"]):
            yield (
                f"The longest sequence in {name} has {lengths['max']:,} steps, half have at most"
                f" {lengths['median']:,.0f}; data.max_length cuts long ones into windows."
            )


def _named(shown: list[str]) -> str:
    more = f" and {len(shown) - NUM_NAMED} more" if len(shown) > NUM_NAMED else ""
    return ", ".join(shown[:NUM_NAMED]) + more
