"""Which label of a step may follow which, as arrays."""

from collections.abc import Sequence

import numpy as np

from components.data.tags import is_legal
from components.networks.crf import Allowed
from components.served.encoding import Encoding


def allowed(labels: Sequence[str], scheme: str, *, windows: bool = False) -> Allowed | None:
    """What a tag scheme (none, BIO, BIOES) says of these labels; None where there is no scheme.

    With `windows`, where long sequences are read in parts, any label may come first and last: a part may
    begin and end within a span.
    """
    if scheme == "none":
        return None
    return Allowed(
        start=np.array([windows or is_legal(None, label, scheme) for label in labels]),
        follows=np.array([[is_legal(before, after, scheme) for after in labels] for before in labels]),
        end=np.array([windows or is_legal(label, None, scheme) for label in labels]),
    )


def rules_of(encoding: Encoding) -> Allowed | None:
    """What the labels of an encoding may do."""
    return allowed(encoding.labels, encoding.scheme, windows=encoding.max_length is not None)
