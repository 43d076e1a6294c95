import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.readers import texts, ts
from components.data.readers.sources import FAULT, LINE, NUMBERS, TEXT, Wanted
from components.errors import DataError

VOWELS = """\
#A UCI Archive dataset: vowels of Japanese speakers
#
@problemName JapaneseVowels
@timeStamps false
@missing false
@univariate false
@dimensions 3
@equalLength false
@classLabel true 1 2 9
@data
1.860936,1.891651,1.939205:-0.207383,-0.193249,-0.239664:0.261557,0.235363,0.258561:1
1.303905,1.288280:0.067256,-0.0183:0.59,6e-1:9
"""


def table(data: bytes | str, name: str = "Vowels.ts", **wanted) -> pa.Table:
    data = data.encode() if isinstance(data, str) else data
    return pa.Table.from_batches(list(ts.rows(io.BytesIO(data), name, Wanted(**wanted))))


def read(data: bytes | str, name: str = "Vowels.ts", **wanted) -> dict[str, list]:
    return table(data, name, **wanted).to_pydict()


def message(data: bytes | str) -> str:
    with pytest.raises(DataError) as caught:
        read(data)
    assert caught.value.exit_code == 2
    return str(caught.value)


def case(*lines: str, header: str = "@classLabel true a b") -> dict[str, list]:
    return read("\n".join([header, "@data", *lines]))


def test_a_case_is_a_row_of_steps_of_features():
    found = table(VOWELS)
    assert found.to_pydict() == {
        "frames": [
            [
                [1.860936, -0.207383, 0.261557],
                [1.891651, -0.193249, 0.235363],
                [1.939205, -0.239664, 0.258561],
            ],
            [[1.303905, 0.067256, 0.59], [1.28828, -0.0183, 0.6]],
        ],
        "label": ["1", "9"],
        LINE: [11, 12],
        FAULT: [None, None],
    }
    assert found.schema.field("frames").type == pa.list_(pa.list_(pa.float64()))


def test_one_dimension_is_one_feature_a_step():
    assert case("1,2:a", "3, 4 ,5:b")["frames"] == [[[1], [2]], [[3], [4], [5]]]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("JapaneseVowels_TRAIN.ts", "train"),
        ("deep/Vowels_test.ts", "test"),
        ("Vowels_Test.ts.gz", "test"),
        ("x_TRAIN/Vowels.ts", None),
        ("TRAINING.ts", None),
        ("Vowels_TRAIN_2.ts", None),
    ],
)
def test_the_split_is_told_by_the_name(name: str, split: str | None):
    assert read(VOWELS, name).get("split") == (split and [split] * 2)


@pytest.mark.parametrize("value", ["?", " ? ", "NaN", "nan", "NAN"])
def test_a_missing_value_is_null(value: str):
    assert case(f"1,{value},3:{value},5,6:a")["frames"] == [[[1, None], [None, 5], [3, 6]]]


def test_an_infinite_number_is_kept_for_the_audit():
    assert case("1e400,-inf:a")["frames"] == [[[float("inf")], [float("-inf")]]]


def test_keys_and_flags_may_be_in_any_case():
    data = "@PROBLEMNAME x\n@TimeStamps False\n@CLASSLABEL TRUE a\n@Dimension 2\n@DATA\n1:2:a\n"
    assert read(data)["frames"] == [[[1, 2]]]


def test_comments_blank_lines_and_unknown_keys_are_passed_over():
    data = "\n# a\n@note on this\n\n@classLabel true a\n@data\n\n# b\n1,2:a\n \t\n"
    assert read(data)[LINE] == [9]


@pytest.mark.parametrize("header", ["@classLabel false", "@targetLabel false"])
def test_cases_without_labels_have_no_such_column(header: str):
    found = case("1,2:3,4", header=header)
    assert list(found) == ["frames", LINE, FAULT]
    assert found["frames"] == [[[1, 3], [2, 4]]]


def test_a_target_is_a_label_as_it_is_written():
    assert case("1,2:3,4:0.50", header="@targetLabel true")["label"] == ["0.50"]
    assert case("1:0.50", header="@classLabel false\n@targetLabel true")["label"] == ["0.50"]


@pytest.mark.parametrize("header", ["@problemName x", "@classLabel true"])
def test_without_announced_classes_any_label_is_one(header: str):
    assert case("1:x", "2:01", header=header)["label"] == ["x", "01"]


def test_a_label_not_announced_is_told():
    found = case("1,2:a", "1,2:c")
    assert found["label"] == ["a", None]
    assert found["frames"][1] == [[1], [2]]
    assert found[FAULT][1] == {
        "column": "label",
        "step": None,
        "line": 4,
        "message": "'c' is not a class that @classLabel announces: a, b",
    }


def test_a_long_list_of_classes_is_not_shown_whole():
    header = "@classLabel true " + " ".join(map(str, range(2000)))
    assert len(case("1:x", header=header)[FAULT][0]["message"]) < 120


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,2:", "no label after the last ':'"),
        ("1,2", "no ':', so either the values or the label are missing"),
    ],
)
def test_a_missing_label_is_told(line: str, said: str):
    found = case(line, "1:a")
    assert found[FAULT][0]["message"] == said
    assert found[FAULT][1] is None


def test_dimensions_of_unequal_length_are_told():
    values = ",".join("1" * 19) + ":" + ",".join("1" * 20)
    found = case(f"{values}:a", "1:1:b")
    assert found["frames"] == [None, [[1, 1]]]
    assert found[FAULT][0]["message"] == "dimension 1 has 20 values, dimension 0 has 19"
    assert case("1:2,3:4:a")[FAULT][0]["message"] == "dimension 1 has 2 values, dimension 0 has 1"
    assert case("1,2:3:a")[FAULT][0]["message"] == "dimension 1 has 1 value, dimension 0 has 2"


def test_the_number_of_dimensions_is_what_the_header_says():
    found = case("1:2:a", "1:a", "1:2:3:a", header="@dimensions 2\n@classLabel true a")
    assert [each and each["message"] for each in found[FAULT]] == [
        None,
        "1 dimension, expected 2",
        "3 dimensions, expected 2",
    ]


def test_else_the_number_of_dimensions_is_that_of_the_first_case():
    found = case("1:2:a", "1:a")
    assert found[FAULT][1]["message"] == "1 dimension, expected 2"
    assert found["frames"] == [[[1, 2]], None]


@pytest.mark.parametrize("value", ["x", "", "1_0", "(0,1)", "1?2", "\u0661", "1e"])
def test_what_is_no_number_is_told_with_its_step(value: str):
    found = case(f"1,2,3:1,2,{value}:a", "1:2:b")
    told = found[FAULT][0]
    assert told["message"] == f"'{value.split(',')[0]}' is not a number (dimension 1)"
    assert (told["column"], told["step"], told["line"]) == ("frames", 2, 3)
    assert found["frames"] == [None, [[1, 2]]]
    assert found["label"] == ["a", "b"]


def test_a_case_without_values_is_an_empty_row():
    found = case(":a", "1:a")
    assert found["frames"] == [[], [[1]]]
    assert found[FAULT] == [None, None]


def test_time_stamps_are_refused():
    assert "Vowels.ts, line 2: time stamps are not read" in message("\n@timeStamps true\n@data\n(0,1):a\n")


@pytest.mark.parametrize("value", ["x", "", "0", "1 2", "9" * 5000])
def test_a_number_of_dimensions_must_be_one(value: str):
    assert "line 1: " in message(f"@dimensions {value}\n@data\n1:a\n")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "Vowels.ts: no rows: the file is empty (0 bytes)"),
        ("# only\n", "no rows: the header is not followed by a line @data"),
        ("@problemName x\n", "no rows: the header is not followed by a line @data"),
        ("@classLabel true a\n1,2:a\n", "Vowels.ts, line 2: a case before @data: the line @data is missing"),
        ("@classLabel true a\n@data\n", "no rows: no case follows @data"),
        ("@classLabel true a\n@data\n# x\n\n", "no rows: no case follows @data"),
    ],
)
def test_a_file_without_data_or_cases_is_refused(data: str, said: str):
    assert said in message(data)


def test_columns_not_wanted_are_left_out_and_not_checked():
    assert list(read(VOWELS, "x_TEST.ts", kinds={"frames": NUMBERS})) == ["frames", LINE, FAULT]
    assert list(read(VOWELS, "x_TEST.ts", kinds={"split": TEXT})) == ["split", LINE, FAULT]
    bad = VOWELS.replace("1.860936", "x").replace(":9", ":7")
    assert read(bad, kinds={"label": TEXT})[FAULT][0] is None
    assert read(bad, kinds={"frames": NUMBERS})[FAULT][1] is None


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_a_byte_order_mark_change_nothing(end: str):
    assert read(b"\xef\xbb\xbf" + VOWELS.rstrip().replace("\n", end).encode()) == read(VOWELS)


def test_other_encodings_are_refused_with_their_place():
    assert "byte 18 (0xe9)" in message(b"@classLabel true a\xe9\n@data\n1:a\xe9\n")
    assert "UTF-16" in message(VOWELS.encode("utf-16"))


@pytest.mark.parametrize("chunk_bytes", range(1, 8))
def test_chunk_borders_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int):
    whole = read(VOWELS)
    monkeypatch.setattr(texts, "CHUNK_BYTES", chunk_bytes)
    assert read(VOWELS.replace("\n", "\r\n")) == whole


def test_batches_are_bounded_by_rows_and_by_values(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ts, "BATCH_ROWS", 3)
    monkeypatch.setattr(ts, "BATCH_VALUES", 5)
    data = "@classLabel true a\n@data\n" + "1:a\n" * 4 + "1,2,3,4:a\n" + "x:a\n"
    batches = list(ts.rows(io.BytesIO(data.encode()), "a.ts", Wanted()))
    assert [batch.num_rows for batch in batches] == [3, 2, 1]
    assert len({batch.schema for batch in batches}) == 1


NUMBER = st.one_of(st.none(), st.floats(allow_nan=False))
CASE = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.lists(st.lists(NUMBER, min_size=width, max_size=width), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    )
)


@settings(deadline=None)
@given(CASE, st.sampled_from(["\n", "\r\n", "\r"]))
def test_cases_written_are_read_back(cases: list[list[list[float | None]]], end: str):
    written = [
        ":".join(
            ",".join("?" if value is None else repr(value) for value in series)
            for series in zip(*frames, strict=True)
        )
        for frames in cases
    ]
    found = read(end.join(["@classLabel true a", "@data", *(f"{each}:a" for each in written)]))
    assert found["frames"] == cases
    assert found[FAULT] == [None] * len(cases)


LIKELY = st.lists(
    st.sampled_from([*"#@,:?_-.e123ab\r\n \u00e9\0", "nan", "inf", "@dimensions", "@data\n"])
).map("".join)


@settings(deadline=None)
@given(
    st.one_of(st.binary(), LIKELY.map(str.encode), LIKELY.map(lambda text: b"@data\n1:a\n" + text.encode())),
    st.sampled_from([{}, {"frames": NUMBERS}, {"label": TEXT}]),
)
def test_any_bytes_are_batches_or_an_error_of_ours(data: bytes, kinds: dict[str, str]):
    try:
        found = table(data, kinds=kinds)
    except DataError as error:
        assert error.problems
    else:
        found.validate(full=True)
        assert found.num_rows
