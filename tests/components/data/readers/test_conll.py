import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.readers import conll, texts
from components.data.readers.sources import FAULT, LINE, NUMBERS, TEXT, TEXTS, Wanted
from components.errors import DataError

ENDS = ["\n", "\r\n", "\r"]

TURKISH = """\
# sent_id = tr-forum:00000222:S023
# text = Burda da öylemi ?
1	Burda	bur	PRON	PRD	Case=Loc	3	npadvmod	_	_
2	da	da	PRT	RPC	Proper=False	1	prt	_	_
3	öylemi	öyle	VERB	NOMP	Case=Bare	0	root	_	_
4	?	?	PUNCT	.	Proper=False	3	p	_	_

# sent_id = tr-blog:00000508:S043
# text = bilmek
1	bil	bil	VERB	VB	Case=Bare	2	ig	_	SpaceAfter=No
2	mek	_	NOUN	VN	Case=Nom	0	root	_	_

"""


def table(data: bytes | str, rows=conll.rows, **wanted) -> pa.Table:
    data = data.encode() if isinstance(data, str) else data
    return pa.Table.from_batches(list(rows(io.BytesIO(data), "a.conll", Wanted(**wanted))))


def read(data: bytes | str, rows=conll.rows, **wanted) -> dict[str, list]:
    return table(data, rows, **wanted).to_pydict()


def message(data: bytes | str, rows=conll.rows, **wanted) -> str:
    with pytest.raises(DataError) as caught:
        read(data, rows, **wanted)
    assert caught.value.exit_code == 2
    return str(caught.value)


def word(number: str, form: str = "a") -> str:
    return "\t".join([number, form, *"_" * 8])


# Plain CoNLL.


def test_a_sentence_is_a_row_with_a_list_for_each_column():
    found = table("EU NNP B-ORG\nrejects VBZ O\n\nUK NNP B-LOC\n")
    assert found.to_pydict() == {
        "token": [["EU", "rejects"], ["UK"]],
        "column_2": [["NNP", "VBZ"], ["NNP"]],
        "label": [["B-ORG", "O"], ["B-LOC"]],
        LINE: [1, 4],
        FAULT: [None, None],
    }
    assert found.schema.field("token").type == pa.list_(pa.string())


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("a", ["token"]),
        ("a b", ["token", "label"]),
        ("a b c d", ["token", "column_2", "column_3", "label"]),
    ],
)
def test_columns_without_names_are_called_by_their_place(line: str, names: list[str]):
    assert list(read(line)) == [*names, LINE, FAULT]


def test_a_blank_line_of_a_dos_file_separates_and_the_last_sentence_needs_none():
    found = read(b"EU B-ORG\r\n\t\r\nUK B-LOC")
    assert found["label"] == [["B-ORG"], ["B-LOC"]]
    assert found[LINE] == [1, 3]


@pytest.mark.parametrize("end", ENDS)
def test_line_ends_and_several_blank_lines_change_nothing(end: str):
    found = read(end.join(["", "EU B-ORG", "", " \t ", "", "UK B-LOC", "US B-LOC"]))
    assert found["token"] == [["EU"], ["UK", "US"]]
    assert found[LINE] == [2, 6]


def test_a_byte_order_mark_is_no_part_of_the_first_token():
    assert read(b"\xef\xbb\xbfEU B-ORG\n")["token"] == [["EU"]]


def test_other_encodings_are_refused_with_their_place():
    assert "byte 6 (0xe9)" in message(b"a O\ncaf\xe9 O\n"[1:])
    assert "UTF-16" in message("EU B-ORG\n".encode("utf-16"))


def test_with_tabs_blanks_belong_to_a_token():
    assert read("1 000\tCD\nNew York\tNNP\n")["token"] == [["1 000", "New York"]]


def test_with_tabs_a_cell_may_be_empty():
    found = read("a\tN\tO\n\tN\t\n")
    assert found["token"] == [["a", ""]]
    assert found["label"] == [["O", ""]]


def test_without_tabs_blanks_run_together_and_stand_at_both_ends():
    assert read("  EU   B-ORG \nUK \t B-LOC\n")["label"] == [["B-ORG", "B-LOC"]]


def test_a_no_break_space_belongs_to_a_token():
    assert read("1\u00a0000 CD\n")["token"] == [["1\u00a0000"]]


def test_docstart_is_no_sentence_and_ends_one():
    found = read("-DOCSTART- -X- O O\n\na N O\n-DOCSTART-\nb N O\n\n-DOCSTART- x\n")
    assert found["token"] == [["a"], ["b"]]
    assert found[LINE] == [3, 5]


def test_a_word_that_only_begins_like_docstart_is_a_token():
    assert read("-DOCSTART-ed O\n")["token"] == [["-DOCSTART-ed"]]


def test_a_missing_tag_is_told_with_its_line():
    data = "-DOCSTART- -X- O O\n\n# NN O\n\nEU NNP B-ORG\nrejects VBZ O\nword\ncall NN O\n\nUK NNP B-LOC\n"
    found = read(data)
    assert found["token"] == [["#"], None, ["UK"]]
    assert found[LINE] == [3, 5, 10]
    assert found[FAULT] == [
        None,
        {"column": "", "step": None, "line": 7, "message": "1 column, expected 3"},
        None,
    ]


def test_with_names_a_missing_tag_is_told_even_if_all_other_lines_begin_with_a_hash():
    found = read("# NN O\n# NN O\n\nword\n", names=("token", "pos", "label"))
    assert found["token"] == [["#", "#"], None]
    assert found[FAULT][1]["message"] == "1 column, expected 3"


def test_too_many_columns_are_told_too():
    assert read("a O\n\nb O O O\n")[FAULT][1]["message"] == "4 columns, expected 2"


def test_a_sentence_tells_its_first_fault_only():
    assert read("a O\nb\nc O O\n")[FAULT][0]["line"] == 2


def test_a_torn_sentence_begins_at_its_first_line():
    assert read("a O\n\nb\nc O\n")[LINE] == [1, 3]


def test_a_hash_is_a_token_where_it_has_all_columns_and_else_a_comment():
    found = read("# a comment of five words\na N O\n\n# and yet another\n# NN O\nb N O\n")
    assert found["token"] == [["a"], ["#", "b"]]
    assert found[LINE] == [2, 5]


def test_a_hash_within_a_sentence_is_no_comment():
    assert read("a O\n# what is this\n")[FAULT][0] == {
        "column": "",
        "step": None,
        "line": 2,
        "message": "4 columns, expected 2",
    }


def test_a_hash_at_the_beginning_of_a_file_does_not_decide_how_many_columns_there_are():
    assert read("# x\na N O\n# NN O\n")["token"] == [["a", "#"]]
    assert read("# NN O\nb NN O\n")["token"] == [["#", "b"]]


def test_names_are_used_and_an_underscore_skips_a_column():
    found = read("EU NNP x B-ORG\n", names=("word", "_", "_", "ner"))
    assert found == {"word": [["EU"]], "ner": [["B-ORG"]], LINE: [1], FAULT: [None]}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("word",), "a.conll, line 2: 3 columns, but 1 name: word"),
        (("a", "b", "c", "d"), "a.conll, line 2: 3 columns, but 4 names: a, b, c, d"),
    ],
)
def test_too_few_or_too_many_names_are_refused(names: tuple[str, ...], said: str):
    assert said in message("\nEU NNP B-ORG\n", names=names)


@pytest.mark.parametrize("rows", [conll.rows, conll.conllu_rows])
@pytest.mark.parametrize("data", ["", "\ufeff", "\n\r\n \t\n", "# only\n# comments\n\n"])
def test_a_file_without_sentences_is_refused(rows, data: str):
    assert "a.conll: no rows: the file is empty" in message(data, rows)


def test_a_file_of_docstart_only_is_refused():
    assert "no rows" in message("-DOCSTART- -X- O\n\n")
    assert "no rows" in message("-DOCSTART- -X- O\n\n", names=("token", "label"))


def test_columns_not_wanted_are_left_out():
    assert list(read("a N O\n", kinds={"label": TEXTS})) == ["label", LINE, FAULT]


def test_numbers_are_read_where_they_are_wanted():
    found = table("a 1 \nb -2.5e1 \nc nan\n", names=("token", "x"), kinds={"x": NUMBERS})
    assert found["x"].type == pa.list_(pa.float64())
    assert str(found["x"].to_pylist()) == "[[1.0, -25.0, nan]]"


@pytest.mark.parametrize("text", ["x", "1_0", "1,5", "\u0661", "_"])
def test_what_is_no_number_is_told_with_its_line_and_step(text: str):
    found = read(f"a 1\n\nb 2\nc {text}\n", names=("token", "x"), kinds={"token": TEXTS, "x": NUMBERS})
    assert found["x"] == [[1.0], None]
    assert found["token"] == [["a"], ["b", "c"]]
    assert found[FAULT][1] == {"column": "x", "step": 1, "line": 4, "message": f"'{text}' is not a number"}


def test_a_long_word_that_is_no_number_is_shown_in_short():
    found = read("a " + "x" * 1000, kinds={"label": NUMBERS})
    assert len(found[FAULT][0]["message"]) < 60


def test_a_column_with_one_value_in_a_sentence_can_be_a_text():
    found = read("a x\nb x\n\nc y\nd z\n", kinds={"token": TEXTS, "label": TEXT})
    assert found["label"] == ["x", None]
    assert found[FAULT] == [
        None,
        {"column": "label", "step": 1, "line": 5, "message": "several values in one sentence"},
    ]


def test_ten_columns_with_ids_are_still_plain():
    found = read(word("1") + "\n" + word("2") + "\n")
    assert found["token"] == [["1", "2"]]
    assert list(found)[-3] == "label"


# CoNLL-U.


def test_conllu_has_ten_columns_and_what_its_comments_say():
    found = read(TURKISH, conll.conllu_rows)
    assert list(found) == [*conll.UNIVERSAL, "sent_id", "text", "newdoc_id", LINE, FAULT]
    assert found["form"] == [["Burda", "da", "öylemi", "?"], ["bil", "mek"]]
    assert found["lemma"][1] == ["bil", "_"]
    assert found["head"] == [["3", "1", "0", "3"], ["2", "0"]]
    assert found["misc"][1] == ["SpaceAfter=No", "_"]
    assert found["sent_id"] == ["tr-forum:00000222:S023", "tr-blog:00000508:S043"]
    assert found["text"] == ["Burda da öylemi ?", "bilmek"]
    assert found["newdoc_id"] == [None, None]
    assert found[LINE] == [3, 10]
    assert found[FAULT] == [None, None]


@pytest.mark.parametrize("end", ENDS)
def test_conllu_may_end_its_lines_in_any_way_and_need_not_end_the_last(end: str):
    data = b"\xef\xbb\xbf" + TURKISH.rstrip("\n").replace("\n", end).encode()
    assert read(data, conll.conllu_rows) == read(TURKISH, conll.conllu_rows)


def test_multiword_tokens_and_empty_nodes_are_left_out():
    data = "\n".join(map(word, ["0.1", "1-2", "1", "2", "2.1", "2.2", "3-4", "3", "4"]))
    found = read(data, conll.conllu_rows)
    assert found["id"] == [["1", "2", "3", "4"]]
    assert found[LINE] == [3]
    assert found[FAULT] == [None]


def test_a_sentence_of_an_empty_node_only_is_an_empty_row():
    found = read(f"# text = x\n{word('0.1')}\n", conll.conllu_rows)
    assert found["form"] == [[]]
    assert found[LINE] == [2]


@pytest.mark.parametrize(
    ("ids", "line", "said"),
    [
        (["2"], 1, "'2', expected 1"),
        (["1", "3"], 2, "'3', expected 2"),
        (["1", "1"], 2, "'1', expected 2"),
        (["1", "1-2", "2"], 2, "'1-2', expected 2"),
        (["1", "2.1"], 2, "'2.1', expected 2"),
        (["1", "x", "3"], 2, "'x', expected 2"),
        (["01"], 1, "'01', expected 1"),
    ],
)
def test_ids_out_of_order_are_told_with_their_line(ids: list[str], line: int, said: str):
    found = read("\n".join(map(word, ids)) + "\n\n" + word("1"), conll.conllu_rows)
    assert found[FAULT] == [{"column": "id", "step": None, "line": line, "message": said}, None]
    assert found["form"] == [None, ["a"]]


def test_an_id_of_thousands_of_digits_is_a_fault_like_others():
    assert read(word("1" * 5000), conll.conllu_rows)[FAULT][0]["column"] == "id"


@pytest.mark.parametrize(("line", "said"), [("2 a b", "1 column"), ("2\ta", "2 columns")])
def test_conllu_tells_a_wrong_number_of_columns(line: str, said: str):
    found = read(f"{word('1')}\n{line}\n", conll.conllu_rows)
    assert found[FAULT][0]["line"] == 2
    assert found[FAULT][0]["message"] == f"{said}, expected 10"


def test_a_comment_within_a_sentence_is_told():
    found = read(f"{word('1')}\n# sent_id = 2\n{word('1')}\n", conll.conllu_rows)
    assert found[FAULT][0]["line"] == 2
    assert "is a blank line missing before it?" in found[FAULT][0]["message"]


def test_a_document_lasts_until_the_next():
    data = "\n\n".join(
        [
            word("1"),
            "# newdoc id = d1\n# sent_id = s1\n" + word("1"),
            word("1"),
            "# newdoc\n" + word("1"),
            "# newdoc id = d2\n# newpar",
            "#newdoc id=d3\n" + word("1"),
        ]
    )
    found = read(data, conll.conllu_rows)
    assert found["newdoc_id"] == [None, "d1", "d1", None, "d3"]
    assert found["sent_id"] == [None, "s1", None, None, None]


def test_comments_before_a_blank_line_are_of_no_sentence():
    assert read(f"# text = x\n\n{word('1')}\n", conll.conllu_rows)["text"] == [None]


def test_a_comment_may_hold_an_equals_sign():
    assert read(f"# text = a = b\n{word('1')}\n", conll.conllu_rows)["text"] == ["a = b"]


def test_columns_of_conllu_not_wanted_are_left_out():
    kinds = {"form": TEXTS, "head": NUMBERS, "text": TEXT}
    found = read(TURKISH, conll.conllu_rows, kinds=kinds)
    assert list(found) == ["form", "head", "text", LINE, FAULT]
    assert found["head"] == [[3, 1, 0, 3], [2, 0]]


# Of both.


def test_batches_are_bounded_by_rows_and_by_tokens(monkeypatch: pytest.MonkeyPatch):
    data = io.BytesIO(b"a O\n\n" * 7 + b"b O\n" * 9 + b"\nc O\n")
    monkeypatch.setattr(conll, "BATCH_ROWS", 3)
    monkeypatch.setattr(conll, "BATCH_TOKENS", 5)
    batches = list(conll.rows(data, "a.conll", Wanted()))
    assert [batch.num_rows for batch in batches] == [3, 3, 2, 1]
    assert len({batch.schema for batch in batches}) == 1


@pytest.mark.parametrize("chunk_bytes", range(1, 8))
@pytest.mark.parametrize("end", ENDS)
def test_chunk_borders_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, end: str):
    whole = read(TURKISH, conll.conllu_rows)
    monkeypatch.setattr(texts, "CHUNK_BYTES", chunk_bytes)
    assert read(TURKISH.replace("\n", end), conll.conllu_rows) == whole


TOKENS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=5)
SENTENCES = st.lists(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=4), min_size=1, max_size=5)


@settings(deadline=None)
@given(SENTENCES, st.sampled_from(ENDS), st.sampled_from([" ", "\t"]), st.booleans())
def test_sentences_written_are_read_back(sentences: list, end: str, separator: str, ends: bool):
    blocks = [end.join(separator.join(cells) for cells in sentence) for sentence in sentences]
    data = (end * 2).join(blocks) + end * ends
    found = read(data, names=("token", "label"))
    assert found["token"] == [[token for token, _ in sentence] for sentence in sentences]
    assert found["label"] == [[label for _, label in sentence] for sentence in sentences]
    assert found[FAULT] == [None] * len(sentences)


LIKELY = st.lists(st.sampled_from([*"#-.1234ab_= \t\n\r\u00a0", "\n\n", "-DOCSTART-", word("1")])).map(
    "".join
)


@settings(deadline=None)
@given(
    st.one_of(st.binary(), LIKELY.map(str.encode)),
    st.sampled_from([conll.rows, conll.conllu_rows]),
    st.sampled_from([None, ("token", "label")]),
    st.sampled_from([{}, {"token": TEXT, "label": NUMBERS}, {"id": NUMBERS, "form": TEXT}]),
)
def test_any_bytes_are_batches_or_an_error_of_ours(data: bytes, rows, names, kinds: dict[str, str]):
    try:
        found = table(data, rows, names=names, kinds=kinds)
    except DataError as error:
        assert error.problems
    else:
        found.validate(full=True)
        assert found.num_rows
        assert not kinds or set(found.column_names) <= {*kinds, LINE, FAULT}
