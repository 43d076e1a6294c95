"""What each column may be for: the id, the steps, what is to be learnt, the split, groups.

    lists in cells      layout: sequence, a row is a sequence
    only single values  layout: step, if an id repeats and an order is unique in it (`gathers` makes lists)
    only running text   layout: sequence, cut at white space

Names decide first, then what the values are like.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.columns import texts
from components.data.instants import Kind, order_values
from components.inspection.gathers import Family, families, gathered
from components.inspection.looks import Column, Inspection, look_at

ID_NAMES = (
    "id", "sent_id", "uid", "uuid", "key", "name", "seq", "sequence", "series", "sentence",
    "utterance", "trial", "episode",
)  # fmt: skip
ORDER_NAMES = (
    "t", "time", "timestamp", "step", "order", "position", "pos", "index", "frame", "date",
    "datetime",
)  # fmt: skip
STEP_LABELS = (
    "labels", "label", "tags", "tag", "upos", "ner_tags", "ner", "pos_tags", "targets", "target",
    "y",
)  # fmt: skip
ROW_LABELS = ("label", "class", "target", "y", "category", "labels", "class_label", "classification")
SPLIT_NAMES = ("split", "fold", "set", "subset", "partition")
GROUP_NAMES = (
    "document", "doc", "newdoc", "speaker", "patient", "subject", "user", "session", "author",
    "customer", "device", "machine", "writer", "participant", "person", "group", "recording",
)  # fmt: skip
TOKEN_NAMES = ("form", "token", "tokens", "word", "words", "text")
# Of CoNLL-U, what another parser said of each word.
PARSED = ("id", "lemma", "xpos", "feats", "head", "deprel", "deps", "misc")
MAX_LABELS = 1000
MIN_WORDS = 3


@dataclass(frozen=True)
class Roles:
    """What was found, in sequences: of the layout `step`, after they were gathered."""

    raw: Inspection  # of the rows as they stand in the files
    found: Inspection  # of sequences
    layout: str
    id: str | None = None
    order: str | None = None
    families: tuple[Family, ...] = ()
    target: Column | None = None
    rivals: tuple[Column, ...] = ()  # other columns that could be the target
    inputs: tuple[Column, ...] = ()
    aside: tuple[Column, ...] = ()  # steps that could be inputs, but may give the target away
    split: Column | None = None
    group: Column | None = None
    groups: tuple[Column, ...] = ()  # other columns whose values repeat
    ties: int = field(default=0)  # rows whose order stands twice in their sequence

    @property
    def per_step(self) -> bool:
        return self.target is not None and self.target.is_steps

    def family(self, name: str) -> Family | None:
        """The columns that an input is made of."""
        return next((family for family in self.families if family.name == name), None)


def roles(raw: Inspection) -> Roles:
    """What each column is for; without a target or inputs where none can be found."""
    found = Roles(raw, raw, "sequence")
    if not any(column.shape in ("numbers", "texts") for column in raw.columns):
        found = _by_step(raw) or found
    else:
        found = replace(found, found=_cut_texts(raw))
    found = replace(found, id=found.id or _id(found.found))
    found = replace(found, split=_split(found.found))
    found = _with_target(found)
    found = _with_inputs(found)
    return _with_groups(found)


def is_named(name: str, known: Sequence[str]) -> bool:
    """Whether a name is one of those known, or has one as a word: `speaker_id`, `Data-Split`."""
    lower = name.lower()
    return lower in known or any(word in known for word in re.split(r"[^a-z0-9]+", lower))


def is_text(column: Column) -> bool:
    """Whether a column of single texts holds sentences rather than names."""
    return column.shape == "text" and column.num_words >= MIN_WORDS


# The layout `step`


def _by_step(raw: Inspection) -> Roles | None:
    names = [each for each in raw.columns if each.is_name and not is_text(each) and not each.num_missing]
    names = [each for each in names if 1 <= each.num_distinct <= len(each.values) / 2]
    # A class of running texts, say, repeats as well.
    names = [each for each in names if not is_named(each.name, (*ROW_LABELS, *SPLIT_NAMES))]
    if any(map(is_text, raw.columns)):
        names = [each for each in names if _is_id(each.name)]
    names.sort(key=lambda each: (not _is_id(each.name), is_named(each.name, GROUP_NAMES), -each.num_distinct))
    for column in names:
        for order in _orders(raw, column.name):
            if (ties := _ties(column, order)) is not None:
                finer = [each for each in names if _is_finer(each, column) and _ties(each, order) is not None]
                column = max(finer, key=lambda each: each.num_distinct, default=column)
                parts = families(raw, (column.name, order.name))
                found = gathered(raw, column, order, parts)
                return Roles(raw, found, "step", column.name, order.name, parts, ties=ties)
    return None


def _is_finer(column: Column, other: Column) -> bool:
    """Whether each value of a column stands with one value only of the other: a session's user."""
    named = _is_id(column.name) or is_named(column.name, GROUP_NAMES)
    if not named or column.num_distinct <= other.num_distinct:
        return False
    table = pa.table({"own": texts(column.values), "other": texts(other.values)})
    return len(table.group_by(["own", "other"]).aggregate([])) == column.num_distinct


def _orders(raw: Inspection, id_column: str) -> list[Column]:
    able = [each for each in raw.columns if each.shape in ("number", "time") and each.name != id_column]
    able = [each for each in able if not (each.num_missing or each.num_gaps or _is_id(each.name))]
    return sorted(able, key=lambda each: (not is_named(each.name, ORDER_NAMES), not each.is_whole))


def _ties(column: Column, order: Column) -> int | None:
    """How many rows share their place with another; None where this is no order."""
    codes = texts(column.values).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    values = order_values(order.values)
    if not set(values.kinds.tolist()) <= {Kind.NUMBER, Kind.ZONED, Kind.LOCAL}:
        return None
    place = np.lexsort((values.rest, values.whole, codes))
    same = np.diff(codes[place]) == 0
    equal = same & (np.diff(values.whole[place]) == 0) & (np.diff(values.rest[place]) == 0)
    if equal.sum() > len(codes) // 100:
        return None
    stood = np.argsort(codes, kind="stable")
    rising = (np.diff(values.whole[stood])[np.diff(codes[stood]) == 0] >= 0).all()
    return int(equal.sum()) if rising or is_named(order.name, ORDER_NAMES) else None


def _cut_texts(raw: Inspection) -> Inspection:
    """Running text as a list of words, where there is a list with an entry for each of them."""
    lists = [column for column in raw.columns if column.shape == "texts"]
    columns = []
    for column in raw.columns:
        if lists and is_text(column):
            cut = look_at(
                column.name, pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts(column.values)))
            )
            column = cut if any(_are_parallel(cut, each) for each in lists) else column
        columns.append(column)
    return replace(raw, columns=tuple(columns))


# One role after another


def _is_id(name: str) -> bool:
    return name.lower() in ID_NAMES or name.lower().endswith("_id")


def _id(found: Inspection) -> str | None:
    able = [
        column
        for column in found.columns
        if column.is_name and not column.is_steps and not is_text(column) and not column.num_missing
    ]
    unique = [column for column in able if column.num_distinct == len(column.values)]
    named = [column for column in unique if _is_id(column.name)]
    if named or unique:
        return (named or unique)[0].name
    # A few ids that stand twice are bad rows, not another kind of column.
    doubled = [each for each in able if _is_id(each.name) and each.num_distinct >= 0.95 * len(each.values)]
    return doubled[0].name if doubled else None


def _split(found: Inspection) -> Column | None:
    for column in found.columns:
        few = 2 <= column.num_distinct <= 50 and column.is_name and not column.is_steps
        if few and not column.num_missing and is_named(column.name, SPLIT_NAMES):
            return column
    return None


def _with_target(found: Roles) -> Roles:
    lists = [each for each in found.found.columns if each.shape in ("numbers", "texts")]
    per_step = [each for each in lists if _is_step_label(each, lists)]
    per_row = [each for each in found.found.columns if _is_row_label(each, found)]
    ranked = [
        *_ranked([each for each in per_step if each.name.lower() in STEP_LABELS], STEP_LABELS),
        *_ranked([each for each in per_row if each.name.lower() in ROW_LABELS], ROW_LABELS),
        *_ranked([each for each in per_step if each.name.lower() not in (*STEP_LABELS, *PARSED)], ()),
        *_ranked([each for each in per_row if each.name.lower() not in ROW_LABELS], ()),
    ]
    if not ranked:
        return found
    return replace(found, target=ranked[0], rivals=tuple(ranked[1:]))


def _ranked(columns: Sequence[Column], names: Sequence[str]) -> list[Column]:
    """The coarser the better, of equally coarse ones the one whose name comes first."""
    place = {name: i for i, name in enumerate(names)}
    return sorted(columns, key=lambda each: (each.num_distinct, place.get(each.name.lower(), len(names))))


def _is_step_label(column: Column, lists: Sequence[Column]) -> bool:
    named = column.name.lower() in STEP_LABELS
    if column.shape == "numbers" and not (named and column.is_name and column.counts and not column.num_gaps):
        return False
    steps = int(column.lengths.sum()) if column.lengths is not None else 0
    if not 2 <= column.num_distinct <= (MAX_LABELS if not named else 10 * MAX_LABELS):
        return False
    if not named and column.num_distinct > steps / 10:
        return False
    return any(_could_feed(other, column) and _are_parallel(other, column) for other in lists)


def _could_feed(column: Column, target: Column) -> bool:
    if column is target or column.name.lower() in STEP_LABELS:
        return False
    return column.shape == "numbers" or column.num_distinct > target.num_distinct


def _are_parallel(one: Column, other: Column) -> bool:
    """Whether steps go with steps; of columns named for labels, differences are faults of the rows."""
    if one.lengths is None or other.lengths is None:
        return False
    named = {one.name.lower(), other.name.lower()} & set(STEP_LABELS)
    return bool(np.mean(one.lengths == other.lengths) >= (0.5 if named else 0.9))


def _is_row_label(column: Column, found: Roles) -> bool:
    if column.is_steps or not column.is_name or column.name in (found.id, found.order):
        return False
    if found.split is not None and column.name == found.split.name:
        return False
    if is_text(column) or column.shape == "time":
        return False
    named = column.name.lower() in ROW_LABELS
    if not named and (is_named(column.name, GROUP_NAMES) or is_named(column.name, SPLIT_NAMES)):
        return False
    most = len(column.values) / (1.5 if named else 5)
    return 2 <= column.num_distinct <= min(MAX_LABELS, most)


def _with_inputs(found: Roles) -> Roles:
    target = found.target
    able = [each for each in found.found.columns if target is None or each.name != target.name]
    if target is not None and target.is_steps:
        able = [each for each in able if not each.is_steps or _are_parallel(each, target)]
    if found.layout == "sequence" and not any(each.is_steps for each in able):
        running = sorted(
            filter(is_text, able), key=lambda each: (not is_named(each.name, TOKEN_NAMES), -each.num_words)
        )
        return replace(found, inputs=tuple(running[:1]), aside=tuple(running[1:]))
    rivals = {each.name for each in found.rivals}
    numbers = [each for each in able if each.shape == "numbers" and each.name not in rivals]
    tokens = [each for each in able if each.shape == "texts" and each.name.lower() not in PARSED]
    tokens = [each for each in tokens if each.name not in rivals or not numbers]
    # Of several lists of texts one is what stands there; the others are mostly what somebody said of it.
    tokens.sort(
        key=lambda each: (each.name in rivals, not is_named(each.name, TOKEN_NAMES), -each.num_distinct)
    )
    chosen = [*numbers, *tokens[:1]] if not numbers or any(map(_is_rich, tokens[:1])) else numbers
    first = chosen[0] if chosen else None
    chosen = [each for each in chosen if first is None or each is first or _are_parallel(each, first)]
    names = {each.name for each in chosen}
    return replace(
        found,
        inputs=tuple(chosen),
        aside=tuple(each for each in able if each.is_steps and each.name not in names),
    )


def _is_rich(column: Column) -> bool:
    return column.num_distinct > MAX_LABELS or is_named(column.name, TOKEN_NAMES)


def _with_groups(found: Roles) -> Roles:
    taken = {found.id, found.order, *(each.name for each in found.inputs)}
    taken |= {each.name for each in (found.target, found.split) if each is not None}
    able = list(_repeating(found, taken))
    named = sorted(
        (each for each in able if is_named(each.name, GROUP_NAMES) and not each.num_missing),
        key=lambda each: -each.num_distinct,
    )
    group = named[0] if named else None
    return replace(found, group=group, groups=tuple(each for each in able if each is not group))


def _repeating(found: Roles, taken: set[str | None]) -> Iterator[Column]:
    for column in found.found.columns:
        if column.name in taken or column.is_steps or not column.is_name or is_text(column):
            continue
        if column.shape == "text" or is_named(column.name, GROUP_NAMES):
            num_values = len(column.values) - column.num_missing
            if 3 <= column.num_distinct <= num_values / 2:
                yield column


def rows_per_value(column: Column) -> float:
    """How many rows each value stands in on average."""
    return float(pc.count(column.values).as_py()) / max(1, column.num_distinct)
