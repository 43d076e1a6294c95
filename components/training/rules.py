"""Which label of a step may follow which, as arrays."""

from collections.abc import Sequence

import numpy as np

from components.data.tags import is_legal
from components.networks.crf import Allowed


def allowed(labels: Sequence[str], scheme: str) -> Allowed | None:
    """What a tag scheme (none, BIO, BIOES) says of these labels; None where there is no scheme."""
    if scheme == "none":
        return None
    return Allowed(
        start=np.array([is_legal(None, label, scheme) for label in labels]),
        follows=np.array([[is_legal(before, after, scheme) for after in labels] for before in labels]),
        end=np.array([is_legal(label, None, scheme) for label in labels]),
    )
