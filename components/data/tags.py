"""Tags that spell spans, and which of them may follow which.

    BIO     B-X begins a span, I-X goes on with it, O is outside (IOB2)
    BIOES   E-X ends a span, S-X is a span of one step

Illegal: I-X or E-X without an open span of X before it; under BIOES also to leave a span without its E-X.
(Ramshaw & Marcus 1995; Sang & Veenstra 1999, https://aclanthology.org/E99-1023)
"""

from collections.abc import Sequence

import numpy as np

from components.spans import Tagging

OUTSIDE = "O"
PREFIXES = {"BIO": "BI", "BIOES": "BIES"}
BEFORE_FIRST = "the beginning"
AFTER_LAST = "the end"


def parse(tag: str) -> tuple[str, str]:
    """Prefix and type: B and PER of B-PER; O and nothing of O; nothing and the tag of what is neither."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, dash, kind = tag.partition("-")
    return (prefix, kind) if dash and kind else ("", tag)


def unfit(tags: Sequence[str], scheme: str) -> list[str]:
    """The tags that the scheme has no meaning for."""
    known = set(PREFIXES[scheme])
    return [tag for tag in tags if tag != OUTSIDE and parse(tag)[0] not in known]


def tagging(tags: Sequence[str], scheme: str) -> Tagging | None:
    """What the tags spell; None without a scheme. A tag that the scheme does not know counts as O."""
    if scheme == "none":
        return None
    parts = [parse(tag) for tag in tags]
    known = [(prefix, kind) if prefix in PREFIXES[scheme] else (OUTSIDE, "") for prefix, kind in parts]
    names = tuple(sorted({kind for prefix, kind in known if prefix != OUTSIDE}))
    place = {name: index for index, name in enumerate(names)}
    return Tagging(
        scheme=scheme,
        prefixes=np.array([prefix for prefix, _ in known], "U1"),
        types=np.array([-1 if prefix == OUTSIDE else place[kind] for prefix, kind in known], np.int64),
        names=names,
    )


def is_legal(before: str | None, after: str | None, scheme: str) -> bool:
    """Whether a tag may follow another; None is what lies before the first and after the last."""
    old_prefix, old_kind = parse(before) if before is not None else (OUTSIDE, "")
    new_prefix, new_kind = parse(after) if after is not None else (OUTSIDE, "")
    is_open = old_prefix in ("B", "I")
    goes_on = new_prefix in ("I", "E")
    if goes_on and not (is_open and old_kind == new_kind):
        return False
    return goes_on or scheme == "BIO" or not is_open


def transitions(codes: np.ndarray, lengths: np.ndarray, num_tags: int) -> np.ndarray:
    """How often each tag follows each, (C + 1, C + 1); last row: the beginning, last column: the end.

    Args:
        codes: tags of all steps, (S,).
        lengths: steps of each sequence, at least 1, (n,).
        num_tags: C.
    """
    size = num_tags + 1
    ends = np.cumsum(lengths)
    before = np.concatenate([[num_tags], codes[:-1]]) if len(codes) else codes
    before = before.astype(np.int64)
    before[ends[:-1]] = num_tags
    counts = np.bincount(before * size + codes, minlength=size * size)
    counts += np.bincount(codes[ends - 1].astype(np.int64) * size + num_tags, minlength=size * size)
    return counts.reshape(size, size)


def illegal(counts: np.ndarray, tags: Sequence[str], scheme: str) -> dict[str, int]:
    """How often each illegal pair stands, as in `O > I-PER`, the most frequent first."""
    found: dict[str, int] = {}
    names: list[str | None] = [*tags, None]
    for i, j in np.argwhere(counts):
        if not is_legal(names[i], names[j], scheme):
            found[f"{names[i] or BEFORE_FIRST} > {names[j] or AFTER_LAST}"] = int(counts[i, j])
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
