"""How many sequences it takes to tell two models apart, if they differ as much as it seems."""

import math

import numpy as np

from components.evaluation.intervals import NORMAL, Resamples


def to_tell(difference: float, resamples: Resamples, *, confidence: float) -> int | None:
    """About how many sequences give an interval of the difference that leaves out zero.

    With n sequences the interval is `difference` ± z·s/√n, which leaves out zero from n = (z·s/difference)²
    on (Lachin 1981, doi:10.1016/0197-2456(81)90001-5, with a power of one half). s, the spread of one
    sequence, comes from the jackknife (Efron and Stein 1981, doi:10.1214/aos/1176345462), so that this holds
    for every metric.

    Args:
        difference: between the models, as observed.
        resamples: of the difference.
        confidence: of the interval.

    Returns:
        None where no number would do: the difference is zero, or its spread unknown.
    """
    without, n = resamples.without, len(resamples.without)
    if n < 2 or difference == 0 or not np.isfinite(without).all():
        return None
    variance = (n - 1) * float(np.sum((without - without.mean()) ** 2))
    z = NORMAL.inv_cdf((1 + confidence) / 2)
    return math.ceil(z**2 * variance / difference**2)
