"""The page of settings names every one of them."""

from conf.reference import page
from conf.validation import fields


def test_every_setting_has_a_row_with_a_sentence() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    named = {row.split("`")[1] for row in rows}
    assert {key.rpartition(".")[2] for key, _ in fields()} == named
    for row in rows:
        assert len(row.rpartition(" | ")[2].rstrip(" |")) > 8, row


def test_defaults_are_written_as_yaml() -> None:
    text = page()
    assert "| `clip_norm` | number, above `0` or null | `1.0` |" in text
    assert "| `id` | string or null | `null` |" in text
    assert "| `unroll` | boolean | `false` |" in text


def test_a_search_and_every_kind_of_dimension_are_described() -> None:
    text = page()
    assert "| `tune` | section or null | `null` | A search over settings" in text
    assert "| `trials` | integer, at least `1`, at most `100000` | `20` |" in text
    _, _, dimension = text.partition("## tune.space (each key)\n")
    rows = [line for line in dimension.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    kinds = ["choice", "uniform", "loguniform", "int", "logint", "quantised", "when"]
    assert [row.split("`")[1] for row in rows] == kinds
    assert "| `uniform` | list of 2: number or null |" in text
