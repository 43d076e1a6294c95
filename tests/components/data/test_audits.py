"""The checks over all rows together."""

import pytest

from components.data.audits import audit
from components.data.fates import REJECTED
from components.data.records import Layout
from components.data.splits import TEST, TRAIN, VALID
from components.errors import NUM_SHOWN, DataError
from conf.schema import Settings


def table(n: int = 12, **changes) -> dict:
    """Rows of two steps with the classes n and y, a quarter of them in fold 0 and in fold 1."""
    rows = {
        "id": [f"r{i}" for i in range(n)],
        "x": [[float(i), 1.0] for i in range(n)],
        "label": ["ny"[i // 4 % 2] for i in range(n)],
        "fold": [i % 4 for i in range(n)],
    }
    return {**rows, **changes}


@pytest.fixture
def run(make_settings, make_scans):
    def audit_of(*tables, **data):
        settings = make_settings(**data)
        return audit(make_scans(settings, *tables), layout=Layout.of(settings), settings=settings)

    return audit_of


def refused(run, *tables, **data) -> str:
    with pytest.raises(DataError) as caught:
        run(*tables, **data)
    assert caught.value.exit_code == 2
    return f"{caught.value}\n{caught.value.hint}"


def test_good_rows_all_have_a_split(run):
    found = run(table())
    assert found.codes[0].tolist() == [TEST, VALID, TRAIN, TRAIN] * 3
    assert (found.num_rows, found.num_steps) == ((6, 3, 3), (12, 6, 6))
    assert found.labels == ("n", "y")
    assert found.widths == (1,)
    assert found.num_rejected == 0


def test_all_problems_of_the_rows_come_at_once_with_a_way_out(run):
    broken = table(id=["r0", "r0", *[f"r{i}" for i in range(2, 12)]])
    broken["x"][5] = []
    broken["label"][7] = None
    text = refused(run, broken)
    assert text.startswith("The data has 3 problems:")
    for part in ("row 5, column x: empty sequence", "row 7, column label: missing value", "the id 'r0' also"):
        assert part in text
    assert "data.on_bad_row: drop" in text


def test_more_problems_than_are_shown_are_counted(run):
    n = NUM_SHOWN + 30
    text = refused(run, table(n, x=[[]] * n))
    assert text.startswith(f"The data has {n} problems, the first {NUM_SHOWN}:")


def test_dropped_rows_keep_their_reasons(run):
    broken = table(id=["r0", "r4", *[f"r{i}" for i in range(2, 12)]])
    broken["x"][5] = []
    found = run(broken, on_bad_row="drop")
    assert found.codes[0][5] == REJECTED
    assert found.num_rejected == 2
    assert sum(found.num_rows) == 10
    assert "empty sequence" in found.reasons[0][5]


def test_a_row_with_other_features_than_most_is_named(run):
    rows = table(x=[[[1.0, 2.0]]] * 11 + [[[1.0, 2.0, 3.0]]])
    rows["x"] = [[[float(i), *step[1:]] for step in row] for i, row in enumerate(rows["x"])]
    assert "row 11, column x: 3 features, 11 other rows have 2" in refused(run, rows)
    assert run(rows, on_bad_row="drop").widths == (2,)


def test_a_fold_that_no_row_has_is_named_with_those_there_are(run):
    text = refused(run, table(), split={"column": "fold", "valid": [1], "test": [9]})
    assert "no row has the value '9' that the split names; there are 0, 1, 2, 3" in text


def test_one_class_is_no_classification(run):
    assert "need 2 classes, the rows have only 'n'" in refused(run, table(label=["n"] * 12))
    only_held_out = ["y" if i % 4 == 0 else "n" for i in range(12)]
    text = refused(run, table(label=only_held_out))
    assert "'y'" in text
    assert "in no training row" in text


def test_a_class_that_training_lacks_is_dropped_with_its_rows_on_request(run):
    labels = ["ny"[i // 4 % 2] for i in range(11)] + ["z"]
    rows = table(label=labels, fold=[*[i % 4 for i in range(11)], 0])
    assert "'z' stands in 1 held-out row and in no training row" in refused(run, rows)
    found = run(rows, on_bad_row="drop")
    assert found.labels == ("n", "y")
    assert found.reasons[0] == {11: "column label: no training row has the label 'z'"}


def test_a_class_too_small_to_stratify_is_named_with_its_number(run):
    split = {"by": "stratified", "valid": 0.25, "test": 0.25}
    text = refused(run, table(label=["a"] * 11 + ["b"]), split=split)
    assert "the class 'b' has 1 distinct sequence, a stratified split needs 3 of each" in text
    found = run(table(label=["a"] * 8 + ["b"] * 4), split=split)
    assert found.num_rows == (6, 3, 3)


def test_a_split_without_rows_is_refused(run):
    text = refused(run, table(2), split={"by": "hash", "valid": 0.1, "test": 0.1})
    assert "no rows are left for" in text


def test_a_copy_in_a_held_out_split_takes_the_row_out_of_training(run):
    rows = table()
    rows["x"][2] = rows["x"][0]
    assert "the same sequence stands in train and in test" in refused(run, rows)
    found = run(rows, on_bad_row="drop")
    assert found.codes[0].tolist()[:3] == [TEST, VALID, REJECTED]


def test_several_files_are_one_set_of_rows(run):
    whole = run(table())
    names = list(table())
    first = {name: table()[name][:5] for name in names}
    second = {name: table()[name][5:] for name in names}
    parts = run(first, second)
    assert [*parts.codes[0], *parts.codes[1]] == whole.codes[0].tolist()
    assert (parts.num_rows, parts.labels) == (whole.num_rows, whole.labels)


DAYS = {"t": [f"2024-05-{i + 1:02}" for i in range(12)]}
BY_TIME = {"by": "time", "column": "t", "valid": "2024-05-07", "test": "2024-05-11"}


def alternating(**changes) -> dict:
    return table(label=["n", "y"] * 6, **{**DAYS, **changes})


def test_rows_in_the_gap_are_set_aside_with_the_reason_and_are_no_problem(run):
    found = run(alternating(), split={**BY_TIME, "gap": "2d"})
    expected = [TRAIN] * 4 + [REJECTED] * 2 + [VALID] * 2 + [REJECTED] * 2 + [TEST] * 2
    assert found.codes[0].tolist() == expected
    reason = "column t: in the gap of 2d before valid or test"
    assert found.reasons[0] == dict.fromkeys((4, 5, 8, 9), reason)
    assert (found.num_rejected, found.num_rows) == (4, (4, 2, 2))
    assert run(alternating(), split=BY_TIME).num_rejected == 0


def test_a_copy_of_a_row_in_the_gap_may_train(run):
    rows = alternating()
    rows["x"][0] = rows["x"][8]
    assert "the same sequence stands in train and in valid" in refused(run, rows, split=BY_TIME)
    assert run(rows, split={**BY_TIME, "gap": "2d"}).codes[0][0] == TRAIN


def test_a_time_that_cannot_be_compared_with_the_settings_is_a_problem_of_its_row(run):
    odd = {3: "soon", 8: "2024-05-09T00:00:00Z"}
    rows = alternating(t=[odd.get(i, day) for i, day in enumerate(DAYS["t"])])
    text = refused(run, rows, split=BY_TIME)
    assert text.startswith("The data has 2 problems:")
    for row, value in odd.items():
        expected = f"received '{value}', expected a value like '2024-05-07' of the settings"
        assert f"row {row}, column t: {expected}" in text
    assert list(run(rows, split=BY_TIME, on_bad_row="drop").reasons[0]) == list(odd)


def test_boundaries_that_cannot_be_compared_are_refused_before_any_row(run):
    text = refused(run, alternating(), split={**BY_TIME, "test": "2024-05-02"})
    assert text.startswith("data.split cannot be used: valid must be earlier than test.")


@pytest.mark.parametrize("n", [60, 300])
def test_no_group_is_in_two_splits(run, n):
    who = [f"person {i * i % 37}" for i in range(n)]
    rows = table(n, who=who, label=["ny"[i % 2] for i in range(n)])
    split = {"by": "group", "column": "who", "valid": 0.3, "test": 0.3}
    found = run({name: values[: n // 3] for name, values in rows.items()},
                {name: values[n // 3 :] for name, values in rows.items()}, split=split)  # fmt: skip
    codes = [*found.codes[0].tolist(), *found.codes[1].tolist()]
    assert set(codes) == {TRAIN, VALID, TEST}
    assert len(set(zip(who, codes, strict=True))) == len(set(who))


def test_a_sequence_that_two_groups_share_is_not_in_two_splits(run):
    rows = table(60, who=[f"person {i}" for i in range(60)], label=["n", "y"] * 30)
    split = {"by": "group", "column": "who", "valid": 0.3, "test": 0.3}
    codes = run(rows, split=split).codes[0]
    one, other = codes.tolist().index(TRAIN), codes.tolist().index(TEST)
    rows["x"][one] = rows["x"][other]
    assert "the same sequence stands in train and in test" in refused(run, rows, split=split)


@pytest.fixture
def tagged(make_settings, make_scans):
    def audit_of(tags: list[str], scheme: str):
        settings = make_settings("labelling", target={"column": "label", "scheme": scheme})
        rows = table(label=[[tag, "O"] for tag in tags * (12 // len(tags))])
        return audit(make_scans(settings, rows), layout=Layout.of(settings), settings=settings)

    return audit_of


def test_a_label_that_is_no_tag_of_the_scheme_is_named(tagged):
    assert tagged(["B-X", "I-X"], "BIO").labels == ("B-X", "I-X", "O")
    assert tagged(["S-X", "NOUN"], "none").labels == ("NOUN", "O", "S-X")
    with pytest.raises(DataError) as caught:
        tagged(["S-X", "NOUN"], "BIO")
    assert [str(problem) for problem in caught.value.problems] == [
        f"column label: '{tag}' is no tag of the scheme BIO, which has B-..., I-... and O"
        for tag in ("NOUN", "S-X")
    ]
    with pytest.raises(DataError, match="'NOUN' is no tag of the scheme BIOES"):
        tagged(["S-X", "NOUN"], "BIOES")


def test_a_weight_of_a_label_that_no_row_has_is_named(make_settings, make_scans):
    settings = make_settings("labelling")
    weights = {"class_weights": {"noun": 2.0, "O": 0.5}}
    weighed = Settings.model_validate({**settings.model_dump(by_alias=True), "train": weights})
    rows = table(label=[["NOUN", "O"]] * 12)
    with pytest.raises(DataError) as caught:
        audit(make_scans(weighed, rows), layout=Layout.of(weighed), settings=weighed)
    assert [str(problem) for problem in caught.value.problems] == [
        "column label: train.class_weights names 'noun', which no row has; did you mean 'NOUN'?"
    ]


def test_a_weight_of_a_label_that_only_dropped_rows_have_is_named(make_settings, make_scans):  # B35
    settings = make_settings("labelling", on_bad_row="drop")
    weights = {"class_weights": {"rare": 2.0, "O": 0.5}}
    weighed = Settings.model_validate({**settings.model_dump(by_alias=True), "train": weights})
    labels = [["NOUN", "O"]] * 12
    labels[1] = ["rare", "O"]  # of fold 1, which validates
    with pytest.raises(DataError) as caught:
        audit(make_scans(weighed, table(label=labels)), layout=Layout.of(weighed), settings=weighed)
    assert [str(problem) for problem in caught.value.problems] == [
        "column label: train.class_weights names 'rare', which no training row has"
    ]
