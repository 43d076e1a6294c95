"""Names that come from outside: the one that was probably meant, and how to show one safely."""

import difflib
from collections.abc import Iterable

# What other tools call it; no likeness of letters leads from these to ours.
SYNONYMS = {
    "lr": "learning_rate",
    "hidden_size": "units",
    "hidden": "units",
    "num_layers": "layers",
    "batch": "batch_size",
    "clip": "clip_norm",
    "early_stop": "early_stopping",
    "gpus": "devices",
    "decay": "schedule",
    "rnn": "cell",
    "registration": "register",
}


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option most like the name, whatever the case, or None when none is like it."""
    by_lower = {option.lower(): option for option in options}
    if SYNONYMS.get(name.lower()) in by_lower:
        return by_lower[SYNONYMS[name.lower()]]
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def printable(text: str) -> str:
    """The text with control characters escaped, since names and values from a file reach a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
