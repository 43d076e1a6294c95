"""Where each row goes, part by part, while the checks over all rows decide it.

codes[part][row]    undecided, train, valid, test or rejected
reasons[part][row]  why it was rejected
"""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from components.data.indexes import Scan
from components.errors import NUM_SHOWN, Problem

REJECTED, UNDECIDED = -1, -2
STRETCH_ROWS = 1 << 22


class Fates:
    """Every row's fate so far, and the first problems found with rows."""

    def __init__(self, scans: Sequence[Scan]) -> None:
        self.scans = scans
        self.codes = [np.full(scan.part.num_rows, UNDECIDED, np.int8) for scan in scans]
        self.reasons: list[dict[int, str]] = [{} for _ in scans]
        self.problems = [problem for scan in scans for problem in scan.problems]
        self.num_problems = sum(scan.num_problems for scan in scans)
        for i, scan in enumerate(scans):
            reasons = scan.index.array("reason")
            bad = np.flatnonzero(reasons.is_valid().to_numpy(zero_copy_only=False))
            self.codes[i][bad] = REJECTED
            self.reasons[i].update(zip(bad.tolist(), reasons.take(bad).to_pylist(), strict=True))

    def accepted(self, part: int) -> np.ndarray:
        """Which of a part's rows are not rejected, (n,) bool."""
        return self.codes[part] != REJECTED

    def place(self, part: int, row: int) -> str:
        """Where a row is, in words."""
        file, at, line = self._locate(part, row)
        return f"{file}, row {at}" if line is None else f"{file}, line {line}"

    def reject(self, part: int, row: int, column: str, message: str, *, step: int | None = None) -> None:
        """Record what is wrong with a row."""
        problem = self.problem(part, row, column, message, step=step)
        self.codes[part][row] = REJECTED
        self.reasons[part][row] = f"column {column}: {message}"
        self.num_problems += 1
        if len(self.problems) < NUM_SHOWN:
            self.problems.append(problem)

    def set_aside(self, part: int, row: int, reason: str) -> None:
        """Leave out a good row, as the settings ask for."""
        self.codes[part][row] = REJECTED
        self.reasons[part][row] = reason

    def problem(self, part: int, row: int, column: str, message: str, *, step: int | None = None) -> Problem:
        """A problem at a row's place."""
        file, at, line = self._locate(part, row)
        return Problem(file, at, column=column, step=step, message=message, line=line)

    def every_problem(self) -> Iterator[Problem]:
        """All rows that are left out, in the order of the input, with the reason."""
        for part, scan in enumerate(self.scans):
            source, first = scan.part.source, scan.part.first_row
            places, lines = scan.index.array("at"), scan.index.array("line")
            for row, reason in sorted(self.reasons[part].items()):
                file, at, line = source.name, first + row, lines[row].as_py()
                if source.origins:
                    file, at = source.origin(places[row].as_py())
                yield Problem(file, at, message=reason, line=line)

    def _locate(self, part: int, row: int) -> tuple[str, int, int | None]:
        """File, row in it, and line where it has lines."""
        scan = self.scans[part]
        source = scan.part.source
        if source.origins:
            return *source.origin(scan.index.array("at")[row].as_py()), None
        return source.name, scan.part.first_row + row, scan.index.array("line")[row].as_py()

    def stretches(self, column: str) -> Iterator[pa.Table]:
        """Accepted rows with a value in an index column, as (column, part, row, code) tables of bounded size.

        Equal values are always in the same table.
        """
        total = sum(len(codes) for codes in self.codes)
        num_stretches = -(-total // STRETCH_ROWS)
        for stretch in range(num_stretches):
            tables = [self._stretch(i, column, stretch, num_stretches) for i in range(len(self.scans))]
            yield pa.concat_tables(tables)

    def _stretch(self, part: int, column: str, stretch: int, num_stretches: int) -> pa.Table:
        values = self.scans[part].index.array(column)
        chosen = self.accepted(part) & values.is_valid().to_numpy(zero_copy_only=False)
        if num_stretches > 1:
            chosen[chosen] = _checksums(values.filter(pa.array(chosen))) % num_stretches == stretch
        rows = np.flatnonzero(chosen)
        return pa.table(
            {
                column: values.take(rows),
                "part": np.full(len(rows), part, np.int32),
                "row": rows,
                "code": self.codes[part][rows],
            }
        )


def _checksums(values: pa.Array) -> np.ndarray:
    texts = (value.encode() if isinstance(value, str) else value for value in values.to_pylist())
    return np.fromiter((zlib.crc32(text) for text in texts), np.uint32, len(values))
