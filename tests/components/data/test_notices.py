"""Each sentence about a profile, and silence where there is nothing to say."""

import pytest

from components.data.notices import notices


def split(labels=None, *, median: float = 5.0, longest: int = 9, **more) -> dict:
    return {"lengths": {"median": median, "max": longest}, "labels": labels or {"a": 50, "b": 50}, **more}


def profile(*inputs: dict, **splits: dict) -> dict:
    return {"splits": {"train": split(), "valid": split(), "test": split(), **splits}, "inputs": list(inputs)}


NUMBERS = {"column": "x", "features": [{"missing": 0}] * 3, "num_features": 3, "constant": []}
WORDS = {"column": "words", "coverage": {"train": 1.0, "valid": 0.9, "test": 0.95}}


def test_of_good_data_there_is_nothing_to_say():
    assert notices(profile(NUMBERS, WORDS)) == []


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            profile(train=split({"a": 50, "b": 4, "c": 1, "d": 5})),
            "Labels that stand fewer than 5 times in training, 2 of 4: 'c' (1), 'b' (4).",
        ),
        (
            profile(test=split({"a": 7, "b": 0})),
            "Labels never in test, so not measured there, 1 of 2: 'b'.",
        ),
        (
            profile(valid=split({f"l{i}": 0 for i in range(7)})),
            "Labels never in valid, so not measured there, 7 of 7: 'l0', 'l1', 'l2', 'l3', 'l4' and 2 more.",
        ),
        (
            profile(test=split(illegal_tags={"O > I-X": 1200, "the beginning > I-X": 3})),
            "Tags in test that follow one they may not, 1,203: O > I-X (1,200), the beginning > I-X (3).",
        ),
        (
            profile({**NUMBERS, "constant": [0, 2]}),
            "Features of 'x' that are the same in all training steps, 2 of 3: 0, 2.",
        ),
        (
            profile({**NUMBERS, "features": [{"missing": 1000}, {"missing": 1}]}),
            "Values of 'x' missing in training, and filled in: 1,001.",
        ),
        (
            profile({**WORDS, "coverage": {"train": 1.0, "valid": 0.9, "test": 0.8999}}),
            "Only 90.0% of the steps of 'words' in test are known from training.",
        ),
        (
            profile(train=split(median=2.0, longest=1001)),
            "The longest sequence in train has 1,001 steps, half have at most 2;"
            " data.max_length cuts long ones into windows.",
        ),
    ],
    ids=["rare", "absent", "many", "illegal", "constant", "gaps", "coverage", "long"],
)
def test_what_is_worth_a_look_is_one_sentence(found, sentence):
    assert notices(found) == [sentence]


def test_a_length_is_not_absurd_until_it_is_many_times_the_usual_one():
    assert notices(profile(train=split(median=2.0, longest=100))) == []
    assert len(notices(profile(train=split(median=0.5, longest=51)))) == 1


def test_the_most_telling_comes_first():
    found = profile(
        {**NUMBERS, "constant": [1]}, train=split({"a": 1, "b": 50}), test=split({"a": 0, "b": 9})
    )
    rare, absent, constant = notices(found)
    assert "stand fewer" in rare
    assert "never in test" in absent
    assert "are the same" in constant


def test_how_many_tokens_have_a_given_vector_is_always_said():
    about = {"file": "v.txt", "found": 8412, "tokens": 9120, "further": 40880, "repeated": 3}
    assert notices(profile({**WORDS, "vectors": about})) == [
        "v.txt: 8,412 of 9,120 tokens of 'words' have a vector; 40,880 more are known from there.",
        "v.txt: repeated tokens, of which the first counts: 3.",
    ]
    few = {**WORDS, "coverage": {"test": 0.5}, "vectors": {**about, "further": 0, "repeated": 0}}
    assert notices(profile(few)) == [
        "v.txt: 8,412 of 9,120 tokens of 'words' have a vector.",
        "Only 50.0% of the steps of 'words' in test are known from training or the vectors.",
    ]
