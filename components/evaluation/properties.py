"""What is known of each prepared row beside its answer: what slices and groups are made of.

    data/test/*.parquet   k0 ..  text of the columns that evaluation alone reads    ─▶ kept
                          c0 ..  the context                                        ─▶ context
                          x0 ..  tokens, of which training may not know some        ─▶ unknown

Rows stand in the order of the shards, so row i is the one whose `place` is i. Letters: n rows.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.served.encoding import Encoding
from components.served.symbols import UNKNOWN, TokenEncoding

RARE = 0.01  # a label that fewer of the training units have is rare


@dataclass(frozen=True)
class Properties:
    """Properties of rows, each by the column that it is of."""

    kept: Mapping[str, pa.Array]  # (n,) text, null where missing
    context: Mapping[str, pa.Array]  # (n,) text, or numbers, NaN where missing
    unknown: Mapping[str, np.ndarray]  # (n,) share of the steps whose token training does not know

    @classmethod
    def read(cls, folder: Path, encoding: Encoding) -> "Properties":
        """Those of a prepared split (`data/valid`, `data/test`), shard by shard."""
        manifest = json.loads((folder.parent / "manifest.json").read_text("utf8"))
        names = {f"k{i}": column for i, column in enumerate(manifest["kept"])}
        names |= {f"c{i}": part.column for i, part in enumerate(encoding.context)}
        tokens = {f"x{i}": part for i, part in enumerate(encoding.inputs) if isinstance(part, TokenEncoding)}
        found: dict[str, list[Any]] = {name: [] for name in (*names, *tokens)}
        for shard in manifest["splits"][folder.name]["shards"]:
            file = pq.ParquetFile(folder / Path(shard["file"]).name)
            for batch in file.iter_batches(batch_size=8192, columns=["row", *found]):
                for name in names:
                    found[name].append(batch.column(name))
                for name, part in tokens.items():
                    found[name].append(_unknown(batch.column(name), part))
        columns = {name: pa.chunked_array(found[name]).combine_chunks() for name in names if found[name]}
        return cls(
            kept={
                column: columns[name] for name, column in names.items() if name in columns and name[0] == "k"
            },
            context={
                column: columns[name] for name, column in names.items() if name in columns and name[0] == "c"
            },
            unknown={part.column: np.concatenate([*found[name], []]) for name, part in tokens.items()},
        )

    def take(self, places: np.ndarray) -> "Properties":
        """Those of some rows, in their order."""
        chosen = pa.array(places)
        return Properties(
            kept={column: values.take(chosen) for column, values in self.kept.items()},
            context={column: values.take(chosen) for column, values in self.context.items()},
            unknown={column: shares[places] for column, shares in self.unknown.items()},
        )


def _unknown(column: pa.ListArray, part: TokenEncoding) -> np.ndarray:
    lengths = pc.list_value_length(column).to_numpy()
    unknown = part.apply(column.flatten().to_pylist())[:, 0] == UNKNOWN
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return np.bincount(rows, unknown, minlength=len(lengths)) / lengths


def group_codes(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A number for each group, whatever the order of the rows, (n,) int64."""
    return np.unique(values.to_numpy(zero_copy_only=False).astype(str), return_inverse=True)[1]


def with_groups(predictions: pa.Table, properties: Properties, *, groups: str | None) -> pa.Table:
    """A predictions table with a column `slice_<column>` for each kept one, and `group` where there are any.

    `properties` are those of the table's rows, in their order.
    """
    for column, values in properties.kept.items():
        predictions = predictions.append_column(f"slice_{column}", values)
    return predictions if groups is None else predictions.append_column("group", properties.kept[groups])


def rare_labels(counts: Mapping[str, int]) -> Collection[str]:
    """The labels that fewer than one in a hundred training units have, by how often each stands there."""
    total = sum(counts.values())
    return {label for label, count in counts.items() if count < RARE * total}
