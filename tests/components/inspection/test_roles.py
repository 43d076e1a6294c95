"""What each column is for, by its name and by its values."""

from typing import Any

import numpy as np
import pytest

from components.inspection.roles import Roles, is_named, roles
from tests.components.inspection.test_looks import inspected

NUM_ROWS = 60


def rows(**columns: Any) -> dict[str, Any]:
    """Sequences of two raw numbers, with further columns."""
    rng = np.random.default_rng(0)
    frames = [rng.normal(size=(2 + i % 3, 2)).tolist() for i in range(NUM_ROWS)]
    return {"frames": frames, **columns}


def each(function: Any) -> list[Any]:
    return [function(i) for i in range(NUM_ROWS)]


def per_step(function: Any) -> list[list[Any]]:
    return [[function(i, step) for step in range(2 + i % 3)] for i in range(NUM_ROWS)]


def found(columns: dict[str, Any], kind: str = "parquet") -> Roles:
    return roles(inspected(columns, kind=kind))


def target(columns: dict[str, Any]) -> str | None:
    chosen = found(columns).target
    return chosen.name if chosen else None


TAGS = per_step(lambda i, step: "abcdef"[(i + step) % 6])
COARSE = per_step(lambda i, step: "ab"[step % 2])
CLASSES = each(lambda i: "xyz"[i % 3])


def test_a_list_of_few_texts_as_long_as_the_inputs_is_labelled_else_the_sequence_is() -> None:
    assert found(rows(tags=TAGS, label=CLASSES)).per_step
    assert target(rows(what=COARSE, kind=CLASSES)) == "what"
    assert target(rows(kind=CLASSES)) == "kind"
    short = [steps[:1] for steps in COARSE]
    assert target(rows(what=short, kind=CLASSES)) == "kind"


def test_of_several_targets_named_ones_win_then_coarser_ones() -> None:
    assert target(rows(tags=TAGS, labels=COARSE)) == "labels"
    assert target(rows(labels=TAGS, tags=COARSE)) == "tags"
    assert target(rows(tags=TAGS, other=COARSE)) == "tags"
    assert target(rows(what=COARSE, label=CLASSES)) == "label"
    rivals = found(rows(tags=TAGS, labels=COARSE, label=CLASSES)).rivals
    assert [column.name for column in rivals] == ["tags", "label"]


def test_whole_numbers_are_labels_of_steps_only_by_name() -> None:
    numbers = per_step(lambda i, step: step % 2)
    assert target(rows(y=numbers)) == "y"
    assert target(rows(state=numbers)) is None
    fractions = [[float(number) for number in steps] for steps in numbers]
    assert target(rows(y=fractions)) is None
    chosen = found(rows(y=fractions), "jsonl").target
    assert chosen is not None and chosen.counts == {"0": 100, "1": 80}


def test_an_id_is_unique_and_preferably_named_so() -> None:
    assert found(rows(other=each(str), row_id=each(lambda i: f"r{i}"), label=CLASSES)).id == "row_id"
    assert found(rows(other=each(str), label=CLASSES)).id == "other"
    assert found(rows(label=CLASSES)).id is None
    doubled = each(lambda i: f"r{max(i, 1)}")
    assert found(rows(id=doubled, label=CLASSES)).id == "id"


def test_tokens_are_an_input_and_what_was_said_of_them_is_not() -> None:
    words = per_step(lambda i, step: f"w{i * 7 + step}")
    columns = {"tokens": words, "lemma": per_step(lambda i, step: f"l{i}"), "upos": COARSE, "feats": TAGS}
    chosen = found(columns)
    assert [column.name for column in chosen.inputs] == ["tokens"]
    assert {column.name for column in chosen.aside} == {"lemma", "feats"}


def test_running_text_is_an_input_where_there_are_no_lists() -> None:
    texts = each(lambda i: f"the number {i} is a number")
    chosen = found({"text": texts, "label": CLASSES})
    assert [column.name for column in chosen.inputs] == ["text"]
    assert found({"number": each(int), "text": texts, "label": CLASSES}).layout == "sequence"
    assert found({"id": each(int), "x": each(float), "label": CLASSES}).layout == "sequence"
    assert (chosen.target.name if chosen.target else None) == "label"


def test_running_text_is_cut_where_a_list_has_an_entry_for_each_word() -> None:
    texts = each(lambda i: " ".join(f"w{i + j}" for j in range(3 + i % 4)))
    chosen = found(
        {"text": texts, "tags": [["ab"[j % 2] for j in range(3 + i % 4)] for i in range(NUM_ROWS)]}
    )
    assert chosen.per_step
    assert [column.name for column in chosen.inputs] == ["text"]


def test_labels_of_other_lengths_are_bad_rows_rather_than_no_labels() -> None:
    assert target(rows(labels=[steps[: 1 + (i % 3 > 0) * 9] for i, steps in enumerate(COARSE)])) == "labels"


def test_columns_named_for_a_split_and_for_groups_are_known() -> None:
    speakers = each(lambda i: f"s{i // 6}")
    chosen = found(
        rows(
            label=CLASSES, fold=each(lambda i: i % 5), speaker_id=speakers, place=each(lambda i: f"p{i // 9}")
        )
    )
    assert chosen.split is not None
    assert chosen.group is not None
    assert (chosen.split.name, chosen.group.name) == ("fold", "speaker_id")
    assert [column.name for column in chosen.groups] == ["place"]


@pytest.mark.parametrize(
    ("name", "is_it"), [("speaker", True), ("Speaker-ID", True), ("loudspeaker", False), ("newdoc_id", True)]
)
def test_names_are_known_by_their_words(name: str, is_it: bool) -> None:
    assert is_named(name, ("speaker", "newdoc")) == is_it


# The layout `step`


def steps(kind: str = "csv", **changes: Any) -> dict[str, Any]:
    """Rows of steps, twelve sequences of five, in any order."""
    place = np.random.default_rng(1).permutation(60)
    columns: dict[str, Any] = {
        "seq": [f"s{i // 5}" for i in place],
        "t": [int(i % 5) for i in place],
        "p0": [float(i) for i in place],
        "p1": [float(i) / 2 for i in place],
        "p2": [0.5] * 30 + [1.5] * 30,
        "speed": [float(i % 7) for i in place],
        "label": ["ab"[(i // 5) % 2] for i in place],
    } | changes
    return {name: list(map(str, values)) if kind == "csv" else values for name, values in columns.items()}


def test_a_target_that_varies_within_a_sequence_is_one_of_steps() -> None:
    chosen = found(steps(label=["ab"[i % 2] for i in range(60)]), "csv")
    assert chosen.per_step


def test_without_an_order_that_is_unique_within_an_id_rows_are_no_steps() -> None:
    assert found(steps(t=[0] * 60), "csv").layout == "sequence"


def test_sequences_are_as_short_as_the_ids_allow() -> None:
    place = [int(name.removeprefix("s")) for name in steps()["seq"]]
    chosen = found(steps(t=list(range(60)), user_id=[f"u{i // 4}" for i in place]), "csv")
    assert chosen.id == "seq"
    assert chosen.group is not None
    assert chosen.group.name == "user_id"


def test_times_are_an_order() -> None:
    place = np.random.default_rng(1).permutation(60)
    times = [f"2024-01-{1 + i % 5:02d}T00:00:00Z" for i in place]
    assert found(steps(t=times), "csv").order == "t"
