"""Settings near others: what a trial of a population goes on with from the state of a better one.

train.learning_rate    loguniform 1e-4 to 1e-2      0.005 ─▶ 0.004 or 0.006
train.batch_size       choice 16, 32, 64               32 ─▶ 16 or 64         or, one time in four, anew
train.label_smoothing  quantised 0 to 0.3 by 0.1      0.2 ─▶ 0.1 or 0.3
"""

from collections.abc import Mapping
from random import Random
from typing import Any

from components.tuning.searches import Dimension, Space, contains, decode, encode, num_values, suggest

# As in population based training (Jaderberg et al. 2017, arXiv:1711.09846).
FACTORS, REDRAWN = (0.8, 1.2), 0.25


def mutated(space: Space, point: Mapping[str, Any], *, seed: int, number: int) -> dict[str, Any]:
    """Each setting a fifth smaller or larger, or the value beside it, and one in four drawn anew.

    Stays within the space, so at its ends a setting may stay as it is.

    Args:
        space: without conditions.
        point: in the space.
        seed: another one mutates otherwise.
        number: counts the mutations of a search.
    """
    source = Random(f"{seed}/{number}")
    drawn = _drawn(space, seed=source.getrandbits(63), number=number)
    found = {
        key: drawn[key] if source.random() < REDRAWN else _near(dimension, point[key], source)
        for key, dimension in space.items()
    }
    assert contains(space, found), found
    return found


def _drawn(space: Space, *, seed: int, number: int) -> dict[str, Any]:
    drawn = suggest(space, search="random", seed=seed, number=number, known=(), higher_is_better=True)
    assert drawn is not None
    return drawn


def _near(dimension: Dimension, value: Any, source: Random) -> Any:
    factor = source.choice(FACTORS)
    if dimension.kind in ("uniform", "loguniform"):
        return float(min(max(value * factor, dimension.low), dimension.high))
    code = encode(dimension, value)
    moved = code
    if dimension.kind != "choice":
        moved = encode(dimension, value * factor if dimension.kind == "quantised" else round(value * factor))
    if moved == code:  # a choice has no fifth, and that of a small number is less than a step
        moved += 1 if factor > 1 else -1
    if dimension.kind == "logint":
        return min(max(int(moved), dimension.low), dimension.high)
    return decode(dimension, min(max(moved, 0), num_values(dimension) - 1))
