"""Tokens and categories: text to whole numbers, known ones from 1 on, 0 for all that training has not seen.

    texts  [Der, der, Hund]            NFC, lower case if asked
      |    TokenEncoding.apply
    x      [3, 3, 1 | characters]      (S, 1 + L) float32, which holds whole numbers below 2**24 exactly

Letters: S all steps, L characters kept of each token.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .numbers import is_missing

UNKNOWN = 0
PADDING, UNKNOWN_CHARACTER, FIRST_CHARACTER = 0, 1, 2


def normal_form(text: str, *, normalise: str, lowercase: bool) -> str:
    """The text as the vocabulary has it."""
    if normalise != "none":
        text = unicodedata.normalize("NFC" if normalise == "NFC" else "NFKC", text)
    return text.lower() if lowercase else text


def cut(token: str, length: int) -> str:
    """The token, or its first and last characters if it is longer than `length`."""
    if len(token) <= length:
        return token
    tail = length // 2
    return token[: length - tail] + token[len(token) - tail :]


@dataclass(frozen=True)
class TokenEncoding:
    """How one input of tokens becomes numbers.

    Its vocabulary is that of the training rows, and of the file of vectors if there was one. Then a token
    that is not known as it is written is looked up in lower case too: such files often have no upper case.
    """

    column: str
    tokens: tuple[str, ...]  # token i is number i + 1
    embedding: int  # width of the learnt vector of a token
    lowercase: bool = False
    normalise: str = "NFC"  # none | NFC | NFKC
    characters: tuple[str, ...] = ()  # character i is number i + 2; none: characters are not read
    max_characters: int = 0  # L
    spelling: str = "convolution"  # how characters are read: convolution | recurrent
    character_units: int = 0  # width of what reads characters; 0: the network's own
    vectors: int = 0  # how many tokens, the last ones, have the vector of a file
    fixed: bool = False  # whether those are not learnt
    unknown_rate: float | None = None  # share made unknown while training; None: the network's own

    @property
    def width(self) -> int:
        """Numbers that a step has once it is encoded: the token's, and those of its characters."""
        return 1 + self.max_characters

    @cached_property
    def _places(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens, 1)}

    @cached_property
    def _character_places(self) -> dict[str, int]:
        return {character: number for number, character in enumerate(self.characters, FIRST_CHARACTER)}

    def _place(self, token: str) -> int:
        place = self._places.get(token, UNKNOWN)
        return self._places.get(token.lower(), UNKNOWN) if self.vectors and place == UNKNOWN else place

    def apply(self, texts: Sequence[str]) -> np.ndarray:
        """Numbers of tokens and of their characters, (S, width) float32."""
        distinct: dict[str, int] = {}
        at = np.fromiter((distinct.setdefault(text, len(distinct)) for text in texts), np.int64, len(texts))
        rows = np.zeros((len(distinct), self.width), np.float32)
        for text, row in distinct.items():
            token = normal_form(text, normalise=self.normalise, lowercase=self.lowercase)
            rows[row, 0] = self._place(token)
            if self.max_characters:
                kept = cut(token, self.max_characters)
                rows[row, 1 : 1 + len(kept)] = [
                    self._character_places.get(character, UNKNOWN_CHARACTER) for character in kept
                ]
        return rows[at]


@dataclass(frozen=True)
class CategoryEncoding:
    """How categories become numbers, one at each step or one for the whole sequence."""

    column: str
    categories: tuple[str, ...]  # category i is number i + 1
    embedding: int

    @property
    def width(self) -> int:
        """Numbers that a step has once it is encoded."""
        return 1

    @cached_property
    def _places(self) -> dict[str, int]:
        return {category: number for number, category in enumerate(self.categories, 1)}

    def apply(self, texts: Sequence[str]) -> np.ndarray:
        """Numbers of categories, (S, 1) float32."""
        numbers = np.fromiter((self._places.get(text, UNKNOWN) for text in texts), np.float32, len(texts))
        return numbers[:, None]


def flatten_texts(rows: Sequence[Any], *, column: str, split: bool) -> tuple[list[str], np.ndarray]:
    """Raw ragged rows of text laid end to end: texts (S,), lengths (n,) int64, at least 1.

    Args:
        rows: one item per row: T texts, or one text that is cut at white space if `split`.
        column: the input's name, for messages.
        split: whether plain text is a sequence of tokens.

    Raises:
        ValueError: naming row and step (counted from 0) of an empty or missing value.
    """
    texts: list[str] = []
    lengths = np.zeros(len(rows), np.int64)
    for i, row in enumerate(rows):
        place = f"{column!r}, row {i}"
        if isinstance(row, str) and split:
            row = row.split()
        if isinstance(row, str | bytes | Mapping) or not hasattr(row, "__len__"):
            raise ValueError(f"{place}: received {row!r}, expected a sequence of texts")
        if len(row) == 0:
            raise ValueError(f"{place}: empty sequence, expected at least 1 step")
        texts += [as_text(value, f"{place}, step {step}") for step, value in enumerate(row)]
        lengths[i] = len(row)
    return texts, lengths


def as_text(value: Any, place: str) -> str:
    """Text, a whole number or a boolean as the prepared data has it.

    Raises:
        ValueError: the value is missing or something else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, int | np.integer):
        return str(value)
    missing = is_missing(value) or (isinstance(value, float | np.floating) and np.isnan(value))
    what = "a missing value" if missing else repr(value)
    raise ValueError(f"{place}: received {what}, expected text")
