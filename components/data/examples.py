"""A few raw rows of a prepared split, as their user would send them.

data/test/*.parquet ─ x0 [flat list] ─▶ [[step], [step]]    source numbers, unscaled
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUM_LOOKED_AT = 4096
MAX_VALUES = 100_000


@dataclass(frozen=True)
class Examples:
    """Raw rows by input column, with their places in the source."""

    rows: tuple[int, ...]
    ids: tuple[str | None, ...]
    values: dict[str, list[Any]]  # by column: per row T steps of F numbers, or T values when F is 1; or one

    def columns(self, id_column: str | None) -> dict[str, list[Any]]:
        """What a caller of the model would give: the inputs, and the ids where rows have them."""
        if id_column is None or None in self.ids:
            return dict(self.values)
        return {id_column: list(self.ids), **self.values}


def examples(folder: Path, *, most: int, max_values: int = MAX_VALUES) -> Examples:
    """At most `most` rows of a prepared split from its beginning, from the shortest to the longest.

    Args:
        folder: `data/test` or another split.
        most: number of rows.
        max_values: of all rows together; at least one row is given whatever its size.
    """
    manifest = json.loads((folder.parent / "manifest.json").read_text("utf8"))
    inputs: list[dict[str, Any]] = manifest["inputs"]
    context: list[dict[str, Any]] = manifest["context"]
    names = [f"x{i}" for i in range(len(inputs))] + [f"c{i}" for i in range(len(context))]
    head = _head(folder, [shard["file"] for shard in manifest["splits"][folder.name]["shards"]], names)
    lengths = head["length"].to_numpy()
    order = np.argsort(lengths, kind="stable")
    spread = order[np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).astype(int))]
    sizes = np.cumsum(lengths[spread] * sum(each["features"] for each in inputs))
    chosen = head.take(pa.array(spread[: max(1, int(np.searchsorted(sizes, max_values, side="right")))]))
    return Examples(
        rows=tuple(chosen["row"].to_pylist()),
        ids=tuple(chosen["id"].to_pylist()),
        values={
            each["column"]: [_raw(row, each["features"]) for row in chosen[name].to_pylist()]
            for name, each in zip(names, [*inputs, *context], strict=True)
        },
    )


def _head(folder: Path, shards: Sequence[str], names: Sequence[str]) -> pa.Table:
    columns = ["row", "id", "length", *names]
    for shard in shards:
        batches = pq.ParquetFile(folder / Path(shard).name).iter_batches(NUM_LOOKED_AT, columns=columns)
        for batch in batches:
            if len(batch):
                return pa.Table.from_batches([batch])
    raise ValueError(f"{folder} holds no rows")


def _raw(value: Any, features: int) -> Any:
    """A row's steps, or its one value of context; what is missing is None, as JSON has it."""
    if not isinstance(value, list):
        return _known(value)
    flat = [_known(each) for each in value]
    return flat if features == 1 else [flat[at : at + features] for at in range(0, len(flat), features)]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value
