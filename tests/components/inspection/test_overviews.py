"""What is shown of columns, lengths and labels."""

from components.inspection import overviews
from components.inspection.proposals import propose
from components.inspection.roles import roles
from tests.components.inspection.test_looks import inspected
from tests.components.inspection.test_roles import each, found, per_step, rows, steps


def test_every_column_has_a_kind_and_a_use() -> None:
    labels = per_step(lambda i, step: "ab"[step % 2])
    tags = per_step(lambda i, step: "abcd"[(i + step) % 4])
    columns = rows(
        id=each(str),
        labels=labels,
        tags=tags,
        speaker=each(lambda i: f"s{i // 6}"),
        none=each(lambda i: None),
    )
    proposal = propose(inspected(columns), name="a", path="a")
    shown = {each["column"]: (each["kind"], each["used_as"]) for each in overviews.columns(proposal.roles)}
    assert shown == {
        "frames": ("sequence of numbers, 2 features", "input"),
        "id": ("id", "id"),
        "labels": ("label per step", "target"),
        "tags": ("label per step", "unused"),
        "speaker": ("group", "group"),
        "none": ("empty", "unused"),
    }


def test_the_columns_of_a_family_stand_in_one_line() -> None:
    shown = {
        each["column"]: (each["kind"], each["used_as"]) for each in overviews.columns(found(steps(), "csv"))
    }
    assert shown == {
        "seq": ("id", "id"),
        "t": ("order of the steps", "order"),
        "p0 ... p2 (3)": ("number per step, 3 features", "input"),
        "speed": ("number per step", "input"),
        "label": ("label per sequence", "target"),
    }
    assert overviews.columns(found(steps(), "csv"))[2]["members"] == ["p0", "p1", "p2"]


def test_lengths_are_of_sequences() -> None:
    assert overviews.lengths(found(steps(), "csv")) == {"min": 5, "median": 5.0, "max": 5}
    texts = {"text": each(lambda i: "one two three " + "four " * i), "label": each(lambda i: "ab"[i % 2])}
    assert overviews.lengths(roles(inspected(texts))) == {"min": 3, "median": 32.5, "max": 62}


def test_labels_begin_with_the_most_frequent() -> None:
    assert list(overviews.labels(found(rows(label=each(lambda i: "ba"[i % 3 == 0]))))) == ["b", "a"]


def test_files_say_how_much_of_them_was_looked_at() -> None:
    said = overviews.files(inspected(rows()))
    assert (said["rows_looked_at"], said["rows"], said["whole"]) == (60, 60, True)
