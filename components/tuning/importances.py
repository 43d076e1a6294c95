"""Which settings the value hangs on.

trials ─▶ ranks of their values ─▶ a forest that foretells them ─▶ {key: share of the variance}, largest first
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from components.tuning.searches import (
    Dimension,
    Known,
    Space,
    encode,
    num_values,
    quiet,
    shuffled,
)
from conf.spaces import FINITE

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

LOGARITHMIC = ("loguniform", "logint")
MIN_TRIALS = 4
# Of more, so many by hash: the time grows faster than their number, and takes eight seconds here.
MAX_TRIALS = 500


def importances(space: Space, known: Sequence[Known], *, seed: int = 0) -> dict[str, float]:
    """How much of the differences between trials each setting explains by itself, together 1, largest first.

    Empty where nothing can be told: fewer than four trials that did not fail, or all equally good.

    That is functional ANOVA (Hutter, Hoos & Leyton-Brown 2014, proceedings.mlr.press/v32/hutter14): a random
    forest learns from all trials, and how its forecast varies along one setting is averaged over the others.
    PED-ANOVA (Watanabe, Bansal & Hutter 2023, arXiv:2304.10255) compares the best tenth with all, but the
    best tenth of twenty trials is two: too few to tell what they have in common from chance.

    - A forest of plain values sees little else than one trial that all but diverged, so ranks take their
      place. They make no difference between up and down: what makes the value worse matters as much.
    - Settings are laid out as they are drawn. Logarithmic ones would else be measured near `high` alone.
    - A setting that is not active in a trial stands in the middle of its values there: all trials count, and
      those in which it is active say what it does.

    Args:
        space: the settings that were searched.
        known: trials that have ended, each of them in the space; failed ones are left out.
        seed: of the forest.
    """

    trials = shuffled(space, (each for each in known if each.has_value))[:MAX_TRIALS]
    if len(trials) < MIN_TRIALS or len({each.value for each in trials}) == 1:
        return {}
    if len(space) == 1:
        return dict.fromkeys(space, 1.0)
    return _shares(_variances(space, trials, seed=seed))


def _shares(variances: dict[str, float]) -> dict[str, float]:
    total = sum(variances.values())
    if not total > 0:
        return {}
    ranked = sorted(variances.items(), key=lambda each: -each[1])
    return {key: variance / total for key, variance in ranked}


def _variances(space: Space, trials: Sequence[Known], *, seed: int) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    evaluator = FanovaImportanceEvaluator(seed=seed)
    with quiet():
        study = _study(space, trials)
        try:
            found = get_param_importances(study, evaluator=evaluator, params=list(space), normalize=False)
        except RuntimeError:
            # No tree of the forest could tell the trials apart: all are at the same point.
            return {}
    return {key: float(found[key]) for key in space}


def _study(space: Space, trials: Sequence[Known]) -> "Study":
    import optuna
    from scipy.stats import rankdata  # half a second, which most commands can do without

    study = optuna.create_study()
    distributions = {key: _distribution(dimension) for key, dimension in space.items()}
    for each, rank in zip(trials, rankdata([each.value for each in trials]), strict=True):
        places = {
            key: _place(dimension, each.point[key]) if key in each.point else _middle(dimension)
            for key, dimension in space.items()
        }
        trial = optuna.trial.create_trial(params=places, distributions=distributions, value=float(rank))
        study.add_trial(trial)
    return study


def _distribution(dimension: Dimension) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if dimension.kind == "choice":
        return CategoricalDistribution(range(num_values(dimension)))
    return FloatDistribution(*_ends(dimension))


def _ends(dimension: Dimension) -> tuple[float, float]:
    """Where a dimension of numbers begins and ends; each whole one has the half around it."""
    low, high = dimension.low, dimension.high
    if dimension.kind in FINITE:
        low, high = 0, num_values(dimension) - 1
    if dimension.kind not in ("uniform", "loguniform"):
        low, high = low - 0.5, high + 0.5
    return (math.log(low), math.log(high)) if dimension.kind in LOGARITHMIC else (float(low), float(high))


def _place(dimension: Dimension, value: Any) -> float:
    code = encode(dimension, value)
    return math.log(code) if dimension.kind in LOGARITHMIC else code


def _middle(dimension: Dimension) -> float:
    return num_values(dimension) // 2 if dimension.kind == "choice" else sum(_ends(dimension)) / 2
