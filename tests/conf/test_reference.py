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
