"""Which settings to try next: pure functions of a space, a seed, a trial's number and what is known so far.

    random   seed, number ─▶ a draw
    grid     number ─▶ the number-th of all points
    optuna   the first few as random, then   seed, number, known ─▶ TPE ─▶ a point

    space  model.units      choice 64, 128                   point  model.units      64
           train.optimizer  choice adam, sgd                        train.optimizer  sgd
           train.momentum   uniform 0 to 0.9, when sgd              train.momentum   0.41

A space maps dotted keys to dimensions. A point gives a value to each key that is active: one without
conditions, or whose conditions name keys of the point with the values that they have there.
"""

import copy
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from conf.spaces import FINITE, canonical

# Optuna takes a third of a second to import, and neither random nor grid needs it.
if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

TOLERANCE = 1e-9
# d + 1 points are the fewest that say how d settings vary together (Falkner, Klein & Hutter 2018,
# arXiv:1807.01774). Many more would leave nothing but chance to a search of twenty trials.
MIN_STARTUP = 5
NUM_ASKS, NUM_DRAWS = 5, 50
# TPE takes the best tenth for good. With ten failures for each value some of that tenth would be failures.
MAX_FAILED = 8

Search: TypeAlias = Literal["random", "grid", "optuna"]


class Dimension(Protocol):
    """Where the values of one setting lie."""

    @property
    def kind(self) -> str:
        """One of choice, uniform, loguniform, int, logint, quantised."""

    @property
    def low(self) -> Any:
        """The least number; None for a choice."""

    @property
    def high(self) -> Any:
        """What no number is above; None for a choice."""

    @property
    def step(self) -> Any:
        """From one quantised number to the next; None for the other kinds."""

    @property
    def values(self) -> tuple[Any, ...]:
        """What there is to choose from; empty for numbers."""

    @property
    def when(self) -> Mapping[str, tuple[Any, ...]]:
        """Which values each of some other keys must have for this one to be active."""


Space: TypeAlias = Mapping[str, Dimension]


@dataclass(frozen=True)
class Known:
    """A point that was tried and its value; None or not finite: it failed, which is the worst there is."""

    point: Mapping[str, Any]
    value: float | None

    @property
    def has_value(self) -> bool:
        """Whether it did not fail."""
        return self.value is not None and math.isfinite(self.value)


def suggest(
    space: Space,
    *,
    search: Search,
    seed: int,
    number: int,
    known: Sequence[Known],
    higher_is_better: bool,
) -> dict[str, Any] | None:
    """The settings of a trial, or None past the end of a grid.

    The same arguments give the same point in any process, whatever was asked before and in whatever order the
    known trials ended.

    Args:
        space: the settings to search.
        search: random and grid look at neither `known` nor `higher_is_better`.
        seed: another one draws other points.
        number: of the trial, from 0.
        known: trials that have ended, each of them in the space.
        higher_is_better: whether the best value is the largest.

    Raises:
        ValueError: a grid of a space that is not finite, or a known point outside the space.
    """
    if search == "grid":
        return next(islice(grid(space), number, None), None)
    if search == "random":
        return _drawn(space, seed=seed, number=number)
    _check(space, known)
    tries = _tries(space, seed=seed, number=number, known=known, higher_is_better=higher_is_better)
    first = next(tries)
    # TPE likes to come back to the best of a few points, where training again tells nothing new.
    size, seen = num_points(space), {_identity(space, each.point) for each in known}
    if size is None or len(seen) >= size:
        return first
    return next((point for point in (first, *tries) if _identity(space, point) not in seen), first)


def _check(space: Space, known: Sequence[Known]) -> None:
    for each in known:
        if not contains(space, each.point):
            raise ValueError(
                f"Received the known point {dict(each.point)}, expected one of the space over "
                f"{', '.join(space)}: leave out the points that it does not contain."
            )


def _tries(
    space: Space, *, seed: int, number: int, known: Sequence[Known], higher_is_better: bool
) -> Iterator[dict[str, Any]]:
    """Points worth a trial, the most promising first."""
    if sum(each.has_value for each in known) >= max(MIN_STARTUP, len(space) + 1):
        own_seed = Random(f"{seed}/{number}").getrandbits(32)
        with quiet():
            study = _study(space, known, higher_is_better=higher_is_better, seed=own_seed)
        for _ in range(NUM_ASKS):
            with quiet():
                point = _asked(space, study.ask())
            yield point
    for attempt in range(NUM_DRAWS):
        yield _drawn(space, seed=seed, number=number, attempt=attempt)


# What is in a space


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Every point of a finite space, once each; the first key changes slowest, keys after their conditions.

    Raises:
        ValueError: the space is not finite.
    """
    for key, dimension in space.items():
        if dimension.kind not in FINITE:
            raise ValueError(
                f"Received {key} as {dimension.kind}, expected one of {', '.join(FINITE)} in a grid: choose "
                "among a few of its values, or search otherwise."
            )
    ordered = _ordered(space)

    def points(place: int, point: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if place == len(ordered):
            yield _arranged(space, point)
            return
        key, dimension = ordered[place]
        if not _is_active(dimension, point):
            yield from points(place + 1, point)
            return
        for code in range(num_values(dimension)):
            yield from points(place + 1, {**point, key: decode(dimension, code)})

    return points(0, {})


def num_points(space: Space) -> int | None:
    """How many points a space has; None where it is not finite."""
    if any(dimension.kind not in FINITE for dimension in space.values()):
        return None
    ordered = _ordered(space)
    conditions = [(key, value) for each in space.values() for key in each.when for value in each.when[key]]
    named = {key: {canonical(value): value for name, value in conditions if name == key} for key in space}

    def points(place: int, point: dict[str, Any]) -> int:
        if place == len(ordered):
            return 1
        key, dimension = ordered[place]
        if not _is_active(dimension, point):
            return points(place + 1, point)
        # Values that no condition names are alike: one stands for all, so long ranges are not walked through.
        own = [value for value in named[key].values() if _holds(dimension, value)]
        num_others = num_values(dimension) - len(own)
        found = sum(points(place + 1, {**point, key: value}) for value in own)
        if num_others:
            values = (decode(dimension, code) for code in range(len(own) + 1))
            other = next(value for value in values if canonical(value) not in named[key])
            found += num_others * points(place + 1, {**point, key: other})
        return found

    return points(0, {})


def contains(space: Space, point: Mapping[str, Any]) -> bool:
    """Whether a point gives a value to the active keys alone, each within its dimension.

    The ends of a dimension, and quantised numbers, may be missed by a billionth.
    """
    return point.keys() <= space.keys() and all(
        _is_active(dimension, point) == (key in point) and (key not in point or _holds(dimension, point[key]))
        for key, dimension in space.items()
    )


def active(space: Space, point: Mapping[str, Any]) -> dict[str, Any]:
    """A point without the keys whose conditions do not hold in it."""
    found: dict[str, Any] = {}
    for key, dimension in _ordered(space):
        if key in point and _is_active(dimension, found):
            found[key] = point[key]
    return _arranged(space, found)


def _ordered(space: Space) -> list[tuple[str, Dimension]]:
    """The dimensions as they stand, but each after those that its conditions name."""
    waiting, ordered = dict(space), []
    while waiting:
        key = next((key for key in waiting if not waiting[key].when.keys() & waiting.keys()), None)
        if key is None:
            raise ValueError(
                f"Received conditions in a circle among {', '.join(waiting)}, expected a key that is always "
                "searched at the start of each: take one of them away."
            )
        ordered.append((key, waiting.pop(key)))
    return ordered


def _arranged(space: Space, point: Mapping[str, Any]) -> dict[str, Any]:
    return {key: point[key] for key in space if key in point}


def _is_active(dimension: Dimension, point: Mapping[str, Any]) -> bool:
    return all(
        key in point and canonical(point[key]) in map(canonical, values)
        for key, values in dimension.when.items()
    )


def _holds(dimension: Dimension, value: Any) -> bool:
    if dimension.kind == "choice":
        return canonical(value) in map(canonical, dimension.values)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    low, high = dimension.low, dimension.high
    if dimension.kind == "uniform":
        room = TOLERANCE * (high - low)
        return bool(low - room <= value <= high + room)
    if dimension.kind == "loguniform":
        return bool(low * (1 - TOLERANCE) <= value <= high * (1 + TOLERANCE))
    if dimension.kind == "quantised":
        code = round((value - low) / dimension.step)
        if not 0 <= code < num_values(dimension):
            return False
        nearest = decode(dimension, code)
        return abs(value - nearest) <= TOLERANCE * dimension.step and type(value) in (type(nearest), int)
    return isinstance(value, int) and bool(low <= value <= high)


# Values as numbers: their places in a finite dimension, since choices need not be hashable


def num_values(dimension: Dimension) -> int:
    """How many values a finite dimension has."""
    if dimension.kind == "choice":
        return len(dimension.values)
    if dimension.kind == "int":
        return int(dimension.high - dimension.low) + 1
    low, high, step = (Decimal(str(each)) for each in (dimension.low, dimension.high, dimension.step))
    return int((high - low) // step) + 1


def encode(dimension: Dimension, value: Any) -> int | float:
    """The number that stands for a value of the dimension."""
    if dimension.kind == "choice":
        return list(map(canonical, dimension.values)).index(canonical(value))
    if dimension.kind == "quantised":
        return round((value - dimension.low) / dimension.step)
    if dimension.kind == "int":
        return int(value - dimension.low)
    if dimension.kind == "logint":
        return int(value)
    return float(min(max(value, dimension.low), dimension.high))


def decode(dimension: Dimension, code: int | float) -> Any:
    """The value that a number stands for; quantised ones are whole if `low` and `step` are."""
    if dimension.kind == "choice":
        return copy.deepcopy(dimension.values[int(code)])
    if dimension.kind == "quantised":
        # As written, so that three times 0.1 is 0.3.
        low, step = dimension.low, dimension.step
        number = Decimal(str(low)) + int(code) * Decimal(str(step))
        return int(number) if isinstance(low, int) and isinstance(step, int) else float(number)
    if dimension.kind == "int":
        return int(dimension.low + code)
    return int(code) if dimension.kind == "logint" else float(code)


def _identity(space: Space, point: Mapping[str, Any]) -> frozenset[tuple[str, int | float]]:
    return frozenset((key, encode(space[key], value)) for key, value in point.items())


# Draws


def _drawn(space: Space, *, seed: int, number: int, attempt: int = 0) -> dict[str, Any]:
    """Each key from its own stream, so that a key more, or a condition, changes the draws of no other."""
    point: dict[str, Any] = {}
    for key, dimension in _ordered(space):
        if _is_active(dimension, point):
            share = Random(f"{seed}/{number}/{attempt}/{key}").random()
            point[key] = decode(dimension, _at(dimension, share))
    return _arranged(space, point)


def _at(dimension: Dimension, share: float) -> int | float:
    """What stands at a share, from 0 to 1, of all values."""
    low, high = dimension.low, dimension.high
    if dimension.kind in FINITE:
        return int(share * num_values(dimension))
    if dimension.kind == "uniform":
        return float(min(low + share * (high - low), high))
    if dimension.kind == "loguniform":
        return min(max(_between(math.log(low), math.log(high), share), low), high)
    # Each whole number has the half around it, the ends theirs on both sides.
    return min(max(round(_between(math.log(low - 0.5), math.log(high + 0.5), share)), low), high)


def _between(low: float, high: float, share: float) -> float:
    return math.exp(low + share * (high - low))


# Optuna


@contextmanager
def quiet() -> Iterator[None]:
    """Within, Optuna says neither that it made a study nor that what it does is experimental."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def shuffled(space: Space, known: Iterable[Known]) -> list[Known]:
    """The trials in the order of hashes: always the same one, that says nothing of points, values or time."""
    return sorted(known, key=lambda each: _digest(space, each))


def _digest(space: Space, known: Known) -> bytes:
    value = None if known.value is None else float(known.value)
    told = [sorted(_identity(space, known.point)), value]
    return blake2b(json.dumps(told).encode()).digest()


def _study(space: Space, known: Sequence[Known], *, higher_is_better: bool, seed: int) -> "Study":
    """A study in memory that has seen the known trials.

    They are shuffled: TPE takes the first of many for old and weighs them less, which must hang neither on
    who ended first nor on who has the smallest numbers. A failed one is infinitely bad: TPE looks at ranks
    alone, and with the worst value known it would tie with one that did not fail.
    """
    import optuna

    sampler = optuna.samplers.TPESampler(
        multivariate=True, group=True, constant_liar=False, n_startup_trials=0, seed=seed
    )
    study = optuna.create_study(direction="maximize" if higher_is_better else "minimize", sampler=sampler)
    worst = -math.inf if higher_is_better else math.inf
    distributions = {key: _distribution(dimension) for key, dimension in space.items()}
    room = MAX_FAILED * sum(each.has_value for each in known)
    for each in shuffled(space, known):
        room -= not each.has_value
        if each.has_value or room >= 0:
            study.add_trial(_ended(space, each, distributions, worst=worst))
    return study


def _ended(
    space: Space, known: Known, distributions: Mapping[str, "BaseDistribution"], *, worst: float
) -> "FrozenTrial":
    from optuna.trial import create_trial

    return create_trial(
        params={key: encode(space[key], value) for key, value in known.point.items()},
        distributions={key: distributions[key] for key in known.point},
        value=known.value if known.has_value else worst,
    )


def _distribution(dimension: Dimension) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.kind == "choice":
        return CategoricalDistribution(range(num_values(dimension)))
    if dimension.kind in FINITE:
        return IntDistribution(0, num_values(dimension) - 1)
    if dimension.kind == "logint":
        return IntDistribution(dimension.low, dimension.high, log=True)
    return FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.kind == "loguniform")


def _asked(space: Space, trial: "Trial") -> dict[str, Any]:
    point: dict[str, Any] = {}
    for key, dimension in _ordered(space):
        if _is_active(dimension, point):
            point[key] = decode(dimension, _asked_code(key, dimension, trial))
    return _arranged(space, point)


def _asked_code(key: str, dimension: Dimension, trial: "Trial") -> int | float:
    low, high = dimension.low, dimension.high
    if dimension.kind == "choice":
        return trial.suggest_categorical(key, range(num_values(dimension)))
    if dimension.kind in FINITE:
        return trial.suggest_int(key, 0, num_values(dimension) - 1)
    if dimension.kind == "logint":
        return trial.suggest_int(key, low, high, log=True)
    return trial.suggest_float(key, float(low), float(high), log=dimension.kind == "loguniform")
