import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import bundles
from components.data.batches import SequenceSet
from components.data.tags import is_legal
from components.served import predictor as served
from components.served import seals
from components.served.encoding import Encoding
from components.served.numbers import NumericEncoding
from components.served.predictor import MAX_BATCH_ROWS, MAX_BATCH_STEPS, Predictor, Said, batches
from components.served.symbols import CategoryEncoding, TokenEncoding
from components.served.windows import windows

LABELLED = [[[0, 1]], [[2, 3], [0, 0], [1, 1]], [[5, 5], [1, 0]]]


@pytest.fixture(scope="module")
def labeller(make_bundle, tmp_path_factory):
    return bundles.open(make_bundle(tmp_path_factory.mktemp("labeller") / "bundle"))


@pytest.fixture(scope="module")
def classifier(make_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "bundle"
    return bundles.open(make_bundle(folder, task="classification", columns=[("x", 1)], labels=("9", "07")))


def long_rows(rng, n, longest=40):
    return [rng.normal(size=(t, 2)) for t in rng.integers(1, longest + 1, n)]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        if "prob" in name or name == "distribution":
            for a, b in zip(one[name], other[name], strict=True):
                np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)
        else:
            assert one[name] == other[name]


def test_a_labeller_answers_each_step_of_each_row_in_order(labeller):
    answers = labeller.predict({"frames": LABELLED})
    assert list(answers) == ["labels", "probabilities"]
    assert [len(labels) for labels in answers["labels"]] == [1, 3, 2]
    assert {label for labels in answers["labels"] for label in labels} <= {"a", "b", "c"}
    assert all(1 / 3 <= p <= 1 for row in answers["probabilities"] for p in row)


def test_a_classifier_answers_once_per_row_with_its_labels_as_text(classifier):
    answers = classifier.predict({"x": [[1, 2, 3], [4]]})
    assert list(answers) == ["label", "probability"]
    assert set(answers["label"]) <= {"9", "07"}
    assert all(0.5 <= p <= 1 for p in answers["probability"])


def test_flat_and_nested_steps_of_one_feature_are_the_same(classifier):
    assert classifier.predict({"x": [[1, 2], [3]]}) == classifier.predict({"x": [[[1], [2]], [[3]]]})


def test_answers_do_not_depend_on_the_company_a_row_is_in(labeller):
    rows = long_rows(np.random.default_rng(1), 60)
    together = labeller.predict({"frames": rows}, distribution=True)
    for i, row in enumerate(rows):
        alone = labeller.predict({"frames": [row]}, distribution=True)
        assert_same(alone, {name: [values[i]] for name, values in together.items()})


def test_answers_follow_the_rows_order(labeller):
    rows = long_rows(np.random.default_rng(2), 30)
    forward, backward = labeller.predict({"frames": rows}), labeller.predict({"frames": rows[::-1]})
    assert_same(forward, {name: values[::-1] for name, values in backward.items()})


def test_an_all_zero_step_counts_as_a_step(labeller):
    answers = labeller.predict({"frames": [[[1, 1], [0, 0], [1, 1]], [[1, 1], [1, 1]]]}, distribution=True)
    assert len(answers["labels"][0]) == 3
    assert answers["distribution"][0][0] != answers["distribution"][1][0]


@pytest.mark.parametrize(
    "rows",
    [
        [np.array(row, np.uint8) for row in LABELLED],
        [np.array(row, np.float64) for row in LABELLED],
        [tuple(map(tuple, row)) for row in LABELLED],
        [np.array([np.array(step, np.int16) for step in row] + [None], object)[:-1] for row in LABELLED],
    ],
    ids=["uint8", "float64", "tuples", "objects"],
)
def test_values_may_come_as_any_kind_of_number(labeller, rows):
    assert_same(labeller.predict({"frames": rows}), labeller.predict({"frames": LABELLED}))


def test_columns_data_frames_and_records_give_the_same(labeller):
    ids = ["w1", "w2", "w3"]
    columns = labeller.predict({"id": ids, "frames": LABELLED})
    assert columns["id"] == ids
    assert labeller.predict(pd.DataFrame({"id": ids, "frames": LABELLED})) == columns
    records = [{"id": i, "frames": row, "more": 1} for i, row in zip(ids, LABELLED, strict=True)]
    assert labeller.predict(records) == columns


def test_ids_are_text_and_missing_ones_stay_missing(labeller):
    ids = ["007", 7, None, float("nan"), pd.NA]
    answers = labeller.predict({"id": ids, "frames": [LABELLED[0]] * 5})
    assert answers["id"] == ["007", "7", None, None, None]


def test_ids_need_not_be_given(labeller):
    assert "id" not in labeller.predict({"frames": LABELLED})


def test_the_best_labels_come_first_and_agree_with_the_distribution(labeller, classifier):
    answers = classifier.predict({"x": [[1, 2]]}, n_best=2, distribution=True)
    assert answers["n_best_labels"][0][0] == answers["label"][0]
    assert answers["n_best_probabilities"][0] == sorted(answers["distribution"][0], reverse=True)
    assert math.isclose(sum(answers["distribution"][0]), 1, abs_tol=1e-6)
    steps = labeller.predict({"frames": LABELLED}, n_best=1, distribution=True)
    assert [[best[0] for best in row] for row in steps["n_best_labels"]] == steps["labels"]
    assert [len(row) for row in steps["distribution"]] == [1, 3, 2]


def test_more_best_labels_than_there_are_is_refused(labeller):
    with pytest.raises(ValueError, match="n_best is 4, expected 0 to 3"):
        labeller.predict({"frames": LABELLED}, n_best=4)


@pytest.mark.parametrize(
    "rows", [[], {"frames": []}, pd.DataFrame({"frames": []})], ids=["list", "dict", "frame"]
)
def test_no_rows_have_no_answers(labeller, rows):
    assert labeller.predict(rows) == {"labels": [], "probabilities": []}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"frames": [LABELLED[0], []]}, "'frames', row 1: empty sequence"),
        ({"frames": [[[1, 2], [3]]]}, "row 0, step 1"),
        ({"frames": [[[1, math.nan]]]}, "row 0, step 0, feature 1"),
        ({"frames": [LABELLED[0], [[1, 2], [None, 3]]]}, "row 1, step 1, feature 0"),
        ({"pixels": LABELLED}, r"missing columns \['frames'\]; received \['pixels'\]"),
        ([{"frames": LABELLED[0]}, [[1, 2]]], "received a row of type list"),
    ],
)
def test_a_row_that_does_not_fit_is_named_with_its_place(labeller, rows, message):
    with pytest.raises(ValueError, match=message):
        labeller.predict(rows)


def test_inputs_of_one_row_must_agree_in_their_steps(make_bundle, tmp_path):
    predictor = bundles.open(make_bundle(tmp_path / "bundle", columns=[("x", 1), ("y", 2)]))
    assert len(predictor.predict({"x": [[1, 2]], "y": [[[1, 2], [3, 4]]]})["labels"][0]) == 2
    with pytest.raises(ValueError, match="row 0: 'y' has 1 steps, 'x' has 2"):
        predictor.predict({"x": [[1, 2]], "y": [[[1, 2]]]})
    with pytest.raises(ValueError, match="'y' has 2 rows, 'x' has 1"):
        predictor.predict({"x": [[1]], "y": [[[1, 2]], [[1, 2]]]})


def test_encoded_sequences_must_have_steps(labeller):
    with pytest.raises(ValueError, match="row 1: empty sequence"):
        labeller.predict_encoded(np.zeros((1, 2), np.float32), np.array([1, 0]))


def test_every_row_is_in_one_batch_and_batches_keep_their_caps():
    lengths = np.random.default_rng(3).integers(1, 500, 5000)
    lengths[17] = 10 * MAX_BATCH_STEPS
    found = batches(lengths)
    assert sorted(np.concatenate(found)) == list(range(5000))
    for rows in found:
        assert len(rows) <= MAX_BATCH_ROWS
        assert len(rows) * lengths[rows].max() <= MAX_BATCH_STEPS or len(rows) == 1


def test_single_steps_are_batched_by_the_cap_on_rows():
    assert [len(rows) for rows in batches(np.ones(MAX_BATCH_ROWS * 2 + 1, int))] == [MAX_BATCH_ROWS] * 2 + [1]


def test_a_damaged_bundle_is_not_loaded(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "bundle")
    (folder / "encoding.json").write_text("{}", "utf8")
    with pytest.raises(ValueError, match=r"encoding.json was changed"):
        Predictor(folder)


EVERY_KIND = Encoding(
    task="labelling",
    inputs=(
        TokenEncoding(
            "word", ("der", "hund"), 3, lowercase=True, characters=tuple("dehnru"), max_characters=6
        ),
        NumericEncoding("x", 1, "standard", (0.5,), (2.0,), fill=(0.25,), indicator=True),
        CategoryEncoding("pos", ("N", "V"), 2),
    ),
    labels=("a", "b", "c"),
    context=(
        NumericEncoding("age", 1, "none", (0.0,), (1.0,), fill=(3.0,)),
        CategoryEncoding("speaker", ("1", "2"), 2),
    ),
)
MIXED = {
    "word": ["Der Hund", ["bellt", "Ω", ""]],
    "x": [[1.0, None], [math.nan, 2, 3]],
    "pos": [["N", "V"], ["N", "?", "N"]],
    "age": [None, 40],
    "speaker": [2, "new"],
}


@pytest.fixture(scope="module")
def mixed(make_bundle, tmp_path_factory):
    return bundles.open(make_bundle(tmp_path_factory.mktemp("mixed") / "bundle", encoding=EVERY_KIND))


def test_tokens_categories_and_context_are_answered_and_what_is_unknown_too(mixed):
    answers = mixed.predict(MIXED, distribution=True)
    assert [len(labels) for labels in answers["labels"]] == [2, 3]
    assert np.isfinite(np.concatenate(answers["distribution"])).all()
    other = mixed.predict({**MIXED, "speaker": ["1", "new"]}, distribution=True)
    assert other["distribution"][0] != answers["distribution"][0]
    np.testing.assert_allclose(other["distribution"][1], answers["distribution"][1], atol=1e-6)


def test_a_data_frame_and_records_of_every_kind_give_the_same(mixed):
    columns = mixed.predict(MIXED)
    assert_same(mixed.predict(pd.DataFrame(MIXED)), columns)
    records = [dict(zip(MIXED, values, strict=True)) for values in zip(*MIXED.values(), strict=True)]
    del records[0]["age"]  # that is missing, too
    assert_same(mixed.predict(records), columns)


def test_raw_rows_are_answered_as_the_prepared_ones_are(mixed, tmp_path):
    table = pa.table(
        {
            "row": [0, 1],
            "id": ["p", "q"],
            "length": pa.array([2, 3], pa.int32()),
            "x0": [["Der", "Hund"], ["bellt", "Ω", ""]],
            "x1": pa.array([[1.0, None], [math.nan, 2, 3]], pa.list_(pa.float64())),
            "x2": MIXED["pos"],
            "c0": pa.array([None, 40], pa.float64()),
            "c1": ["2", "new"],
            "y": pa.array([[0, 1], [2, 0, 0]], pa.list_(pa.int32())),
        }
    )
    (tmp_path / "test").mkdir()
    pq.write_table(table, tmp_path / "test" / "part-0.parquet")
    shards = [{"file": "test/part-0.parquet"}]
    manifest = {"splits": {"test": {"rows": 2, "steps": 5, "shards": shards}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf8")
    split = SequenceSet.open(tmp_path / "test", EVERY_KIND)
    prepared = mixed.predict_encoded(split.x, split.lengths)
    served = mixed.predict(MIXED, distribution=True)["distribution"]
    np.testing.assert_allclose(np.concatenate(served), np.exp(prepared.log_probabilities), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"word": [["der", "hund"], None]}, "'word', row 1: received None, expected a sequence of texts"),
        ({"word": ["der hund", "  "]}, "'word', row 1: empty sequence"),
        ({"pos": [["N", None], ["N", "N", "N"]]}, "'pos', row 0, step 1: received a missing value"),
        ({"pos": ["N V", ["N", "N", "N"]]}, "'pos', row 0: received 'N V', expected a sequence of texts"),
        ({"word": ["der", ["a", "b", "c"]]}, "row 0: 'x' has 2 steps, 'word' has 1"),
        ({"age": [1, "old"]}, "'age', row 1: received 'old', expected a number"),
        ({"age": [math.inf, 1]}, "'age', row 0: received inf, expected a finite number"),
        ({"age": [1]}, "'age' has 1 rows, 'word' has 2"),
        ({"speaker": ["1", None]}, "'speaker', row 1: received a missing value, expected text"),
        ({"speaker": ["1"]}, "'speaker' has 1 rows, 'word' has 2"),
    ],
)
def test_what_does_not_fit_is_named_whatever_its_kind(mixed, changes, message):
    with pytest.raises(ValueError, match=message):
        mixed.predict({**MIXED, **changes})


def test_no_rows_of_any_kind_have_no_answers(mixed):
    assert mixed.predict([]) == {"labels": [], "probabilities": []}


def test_columns_of_the_context_must_be_there(mixed):
    with pytest.raises(ValueError, match=r"missing columns \['age', 'speaker'\]"):
        mixed.predict({name: MIXED[name] for name in ("word", "x", "pos")})


@pytest.mark.parametrize("task", ["labelling", "classification"])
def test_windows_as_long_as_the_sequence_change_nothing(make_bundle, tmp_path, task):
    whole = Encoding(task, (NumericEncoding("x", 1, "none", (0.0,), (1.0,)),), ("a", "b"))
    windowed = replace(whole, max_length=30, overlap=8)
    rng = np.random.default_rng(6)
    rows = {"x": [rng.normal(size=length) for length in (30, 1, 12, 29)]}
    one, other = (
        bundles.open(make_bundle(tmp_path / str(each.max_length), encoding=each))
        for each in (whole, windowed)
    )
    assert_same(one.predict(rows, distribution=True), other.predict(rows, distribution=True))


@pytest.mark.parametrize("overlap", [0, 3, 6])
@pytest.mark.parametrize("task", ["labelling", "classification"])
def test_a_long_sequence_has_the_answers_of_its_windows(make_bundle, tmp_path, task, overlap):
    encoding = Encoding(
        task, (NumericEncoding("x", 1, "none", (0.0,), (1.0,)),), ("a", "b"), max_length=7, overlap=overlap
    )
    predictor = bundles.open(make_bundle(tmp_path / "bundle", encoding=encoding))
    lengths = np.array([3, 40, 7, 8])
    x = np.random.default_rng(7).normal(size=(lengths.sum(), 1)).astype(np.float32)
    said = predictor.predict_encoded(x, lengths)
    found = np.exp(said.log_probabilities)
    cut = windows(lengths, 7, overlap)
    expected = np.zeros((58 if task == "labelling" else 4, 2))
    for at, owner in enumerate(cut.owners):
        read = x[cut.starts[at] : cut.stops[at]]
        alone = np.exp(predictor.predict_encoded(read, np.array([len(read)])).log_probabilities)
        first, stop = cut.kept_starts[at], cut.kept_stops[at]
        if task == "labelling":
            expected[first:stop] = alone[first - cut.starts[at] : stop - cut.starts[at]]
        else:
            expected[owner] += alone[0] * (stop - first) / lengths[owner]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(said.best, found.argmax(axis=1))
    np.testing.assert_allclose(said.confidence, found.max(axis=1), atol=1e-6)


def test_a_wide_overlap_answers_more_like_the_whole_sequence(make_bundle, tmp_path):
    """Steps at a window's edge see too little of what stands beside them."""
    whole = Encoding("labelling", (NumericEncoding("x", 1, "none", (0.0,), (1.0,)),), ("a", "b"))
    x = np.random.default_rng(8).normal(size=(200, 1)).astype(np.float32)
    answers = []
    for max_length, overlap in ((None, 0), (20, 0), (20, 10)):
        encoding = replace(whole, max_length=max_length, overlap=overlap)
        predictor = bundles.open(make_bundle(tmp_path / f"{max_length}-{overlap}", encoding=encoding))
        answers.append(np.exp(predictor.predict_encoded(x, np.array([200])).log_probabilities))
    blunt, wide = (np.abs(each - answers[0]).mean() for each in answers[1:])
    assert wide < blunt / 2


def test_confidence_is_the_probability_of_what_is_said_and_not_of_the_most_probable():
    said = Said(np.log(np.array([[0.7, 0.3], [0.4, 0.6]], np.float32)), np.array([1, 1]))
    np.testing.assert_allclose(said.confidence, [0.3, 0.6], rtol=1e-6)
    assert said.confidence.dtype == np.float64


TAGS = ("O", "B-X", "E-X", "S-X")
TAGGED = Encoding("labelling", (NumericEncoding("x", 1, "none", (0.0,), (1.0,)),), TAGS, scheme="BIOES")


@pytest.fixture(scope="module")
def chained(make_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chained") / "bundle"
    return bundles.open(make_bundle(folder, encoding=TAGGED, model={"crf": True, "constrained": True}))


def numbers_of_length_1_to_9():
    rng = np.random.default_rng(9)
    return {"x": [rng.normal(0.0, 2.0, length) for length in rng.integers(1, 10, 50)]}


def test_under_a_crf_labels_are_the_best_sequence_and_probabilities_their_marginals(chained):
    rows = numbers_of_length_1_to_9()
    answers = chained.predict(rows, n_best=1, distribution=True)
    for labels, probabilities, each in zip(
        answers["labels"], answers["probabilities"], answers["distribution"], strict=True
    ):
        assert probabilities == [step[TAGS.index(label)] for label, step in zip(labels, each, strict=True)]
        np.testing.assert_allclose(np.sum(each, axis=1), 1, atol=1e-5)
        assert all(is_legal(one, other, "BIOES") for one, other in itertools.pairwise([None, *labels, None]))
    # The most probable label of each step need not be legal beside the others.
    most_probable = [[best[0] for best in row] for row in answers["n_best_labels"]]
    assert most_probable != answers["labels"]


def test_under_a_crf_answers_do_not_depend_on_the_company_a_row_is_in(chained):
    rows = numbers_of_length_1_to_9()
    together = chained.predict(rows, distribution=True)
    for i in range(0, 50, 7):
        alone = chained.predict({"x": [rows["x"][i]]}, distribution=True)
        assert_same(alone, {name: [values[i]] for name, values in together.items()})


def test_each_window_says_the_best_sequence_of_its_own(make_bundle, tmp_path):
    windowed = replace(TAGGED, max_length=6, overlap=2)
    model = {"crf": True, "constrained": True}
    predictor = bundles.open(make_bundle(tmp_path / "bundle", encoding=windowed, model=model))
    lengths = np.array([20, 6, 11])
    x = np.random.default_rng(10).normal(0.0, 2.0, (37, 1)).astype(np.float32)
    said = predictor.predict_encoded(x, lengths)
    cut = windows(lengths, 6, 2)
    for at in range(len(cut.owners)):
        read = x[cut.starts[at] : cut.stops[at]]
        alone = predictor.predict_encoded(read, np.array([len(read)]))
        kept = slice(cut.kept_starts[at], cut.kept_stops[at])
        np.testing.assert_array_equal(
            said.best[kept], alone.best[kept.start - cut.starts[at] : kept.stop - cut.starts[at]]
        )


def test_the_best_sequence_of_a_crf_comes_first_among_its_best_ones(chained):
    rows = numbers_of_length_1_to_9()
    found, answers = chained.best_sequences(rows, 5), chained.predict(rows)
    for sequences, probabilities, labels in zip(
        found["sequences"], found["probabilities"], answers["labels"], strict=True
    ):
        assert sequences[0] == labels
        assert 1 <= len(sequences) == len(probabilities) <= 5
        assert len({tuple(sequence) for sequence in sequences}) == len(sequences)
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) <= 1 + 1e-5
    # A single step that may not go on is O or S-X: nothing else has any probability.
    short = [i for i, row in enumerate(rows["x"]) if len(row) == 1]
    assert short
    for i in short:
        assert {tuple(sequence) for sequence in found["sequences"][i]} == {("O",), ("S-X",)}
        assert sum(found["probabilities"][i]) == pytest.approx(1, abs=1e-5)


def test_best_sequences_of_a_long_row_are_there_though_their_probabilities_leave_float64(chained):
    rows = {"x": [np.random.default_rng(2).normal(0.0, 2.0, 4_000)]}
    found, answers = chained.best_sequences(rows, 3), chained.predict(rows)
    (scores,) = found["log_probabilities"]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    assert scores[0] < -745
    assert found["probabilities"] == [[0.0] * 3]
    assert found["sequences"][0][0] == answers["labels"][0]


def test_best_sequences_do_not_depend_on_how_many_rows_are_searched_at_once(chained, monkeypatch):
    rows = numbers_of_length_1_to_9()
    together = chained.best_sequences(rows, 4)
    monkeypatch.setattr(served, "MAX_SEARCH", 1)
    alone = chained.best_sequences(rows, 4)
    assert alone["sequences"] == together["sequences"]
    for one, other in zip(alone["log_probabilities"], together["log_probabilities"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert chained.best_sequences({"x": []}, 4) == {
        "sequences": [],
        "log_probabilities": [],
        "probabilities": [],
    }


def test_only_a_crf_has_best_sequences_and_only_of_whole_rows(labeller, chained, make_bundle, tmp_path):
    with pytest.raises(ValueError, match=r"it is no CRF \(model\.crf\)"):
        labeller.best_sequences({"frames": [[[1.0, 2.0]]]}, 2)
    with pytest.raises(ValueError, match="n is 0"):
        chained.best_sequences({"x": [[1.0]]}, 0)
    windowed = replace(TAGGED, max_length=3)
    predictor = bundles.open(make_bundle(tmp_path / "bundle", encoding=windowed, model={"crf": True}))
    with pytest.raises(ValueError, match="row 1: 4 steps, but the model reads windows of 3"):
        predictor.best_sequences({"x": [[1.0], [1.0, 2.0, 3.0, 4.0]]}, 2)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_steps_answered_as_they_come_are_those_of_the_whole_sequence(make_bundle, tmp_path, cell):
    folder = make_bundle(tmp_path / "bundle", model={"bidirectional": False, "cell": cell, "layers": 2})
    predictor = bundles.open(folder)
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(7, 2)), rng.normal(size=(7, 2))]
    whole = predictor.predict({"frames": rows})
    state, labels, probabilities = None, [[], []], [[], []]
    for at in (slice(0, 1), slice(1, 5), slice(5, 7)):
        answers, state = predictor.step({"frames": [row[at] for row in rows]}, state)
        for i in range(2):
            labels[i] += answers["labels"][i]
            probabilities[i] += answers["probabilities"][i]
    assert labels == whole["labels"]
    np.testing.assert_allclose(probabilities, whole["probabilities"], atol=1e-6)


def test_what_cannot_be_answered_step_after_step_says_why(labeller, make_bundle, tmp_path):
    with pytest.raises(ValueError, match="cannot answer step after step: it is bidirectional"):
        labeller.step({"frames": [[[1.0, 2.0]]]})
    predictor = bundles.open(make_bundle(tmp_path / "bundle", model={"bidirectional": False}))
    _, state = predictor.step({"frames": [[[1.0, 2.0]]]})
    with pytest.raises(ValueError, match=r"shapes \[\(1, 4\)\], expected \[\(2, 4\)\]"):
        predictor.step({"frames": [[[1.0, 2.0]], [[3.0, 4.0]]]}, state)


def at_temperature(folder, temperature):
    """The bundle, opened with another temperature; None: without one, as bundles were before."""
    about = json.loads((folder / "bundle.json").read_text("utf8"))
    about["temperature"] = temperature
    if temperature is None:
        del about["temperature"]
    about["digest"] = seals.digest(about)
    (folder / "bundle.json").write_text(json.dumps(about), "utf8")
    return Predictor(folder)


def test_a_temperature_holds_for_every_answer_and_leaves_the_labels(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "bundle", model={"bidirectional": False})
    rows = long_rows(np.random.default_rng(5), 20, longest=6)
    options = {"n_best": 3, "distribution": True}
    plain = Predictor(folder).predict({"frames": rows}, **options)
    predictor = at_temperature(folder, 2.5)
    scaled = predictor.predict({"frames": rows}, **options)
    assert scaled["labels"] == plain["labels"]
    assert scaled["n_best_labels"] == plain["n_best_labels"]
    for row in range(len(rows)):
        expected = np.array(plain["distribution"][row]) ** (1 / 2.5)
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(scaled["distribution"][row], expected, atol=1e-6)
        ranked = np.sort(expected, axis=1)[:, ::-1]
        np.testing.assert_allclose(scaled["n_best_probabilities"][row], ranked, atol=1e-6)
        np.testing.assert_allclose(scaled["probabilities"][row], ranked[:, 0], atol=1e-6)
        stepped, state = [], None
        for step in rows[row]:
            answers, state = predictor.step({"frames": [[step]]}, state)
            stepped += answers["probabilities"][0]
        np.testing.assert_allclose(stepped, scaled["probabilities"][row], atol=1e-6)


def test_windows_of_a_classifier_are_scaled_before_their_mean_is_taken(make_bundle, tmp_path):
    column = NumericEncoding("frames", 2, "standard", (0.5, 0.5), (2.0, 2.0))
    encoding = Encoding("classification", (column,), ("a", "b", "c"), max_length=4)
    folder = make_bundle(tmp_path / "bundle", encoding=encoding)
    row = np.random.default_rng(6).normal(0, 3, (8, 2))
    halves = Predictor(folder).predict({"frames": [row[:4], row[4:]]}, distribution=True)["distribution"]
    roots = np.array(halves) ** (1 / 3)
    expected = (roots / roots.sum(axis=1, keepdims=True)).mean(axis=0)
    scaled = at_temperature(folder, 3.0).predict({"frames": [row]}, distribution=True)
    np.testing.assert_allclose(scaled["distribution"][0], expected, atol=1e-6)


def test_under_constraints_a_temperature_leaves_the_best_sequence(make_bundle, tmp_path):
    column = NumericEncoding("frames", 2, "standard", (0.5, 0.5), (2.0, 2.0))
    encoding = Encoding("labelling", (column,), ("O", "B-x", "I-x"), scheme="BIO")
    folder = make_bundle(tmp_path / "bundle", encoding=encoding, model={"constrained": True})
    rows = long_rows(np.random.default_rng(7), 200, longest=8)
    plain = Predictor(folder).predict({"frames": rows}, distribution=True)
    most = [[encoding.labels[at] for at in np.argmax(each, axis=1)] for each in plain["distribution"]]
    assert most != plain["labels"]
    assert at_temperature(folder, 0.4).predict({"frames": rows})["labels"] == plain["labels"]


def test_a_bundle_without_a_temperature_answers_as_it_did(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "bundle")
    before = Predictor(folder).predict({"frames": LABELLED}, distribution=True)
    old = at_temperature(folder, None)
    assert old.temperature == 1.0
    assert old.predict({"frames": LABELLED}, distribution=True) == before
