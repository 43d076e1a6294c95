"""Ids and sequences that stand more than once: which copy is kept never depends on the order of files."""

import pyarrow.compute as pc

from components.data.fates import Fates
from components.data.records import Layout
from components.data.splits import SPLITS


def unique_ids(fates: Fates, layout: Layout) -> None:
    """Reject all rows of an id but the one whose content sorts first."""
    if layout.id is None:
        return
    for table in fates.stretches("id"):
        counts = table.group_by("id").aggregate([("row", "count")])
        double = counts.filter(pc.greater(counts["row_count"], 1))["id"]
        if not len(double):
            continue
        groups: dict[str, list[tuple[int, int]]] = {}
        for entry in table.filter(pc.is_in(table["id"], value_set=double.combine_chunks())).to_pylist():
            groups.setdefault(entry["id"], []).append((entry["part"], entry["row"]))
        for name, places in groups.items():
            kept = min(places, key=lambda place: _content(fates, *place))
            for part, row in places:
                if (part, row) != kept:
                    fates.reject(part, row, layout.id, f"the id {name!r} also stands at {fates.place(*kept)}")


def separate_splits(fates: Fates, layout: Layout) -> None:
    """Reject the copies of a sequence outside the most held-out split that has it."""
    for table in fates.stretches("digest"):
        spans = table.group_by("digest").aggregate([("code", "min"), ("code", "max")])
        shared = spans.filter(pc.not_equal(spans["code_min"], spans["code_max"]))["digest"]
        if not len(shared):
            continue
        copies = table.filter(pc.is_in(table["digest"], value_set=shared.combine_chunks())).to_pylist()
        kept: dict[bytes, dict[str, int]] = {}
        for copy in copies:
            if copy["code"] > kept.setdefault(copy["digest"], copy)["code"]:
                kept[copy["digest"]] = copy
        for copy in copies:
            other = kept[copy["digest"]]
            if copy["code"] != other["code"]:
                message = (
                    f"the same sequence stands in {SPLITS[copy['code']]} and in {SPLITS[other['code']]}"
                    f" ({fates.place(other['part'], other['row'])})"
                )
                fates.reject(copy["part"], copy["row"], layout.inputs[0], message)


def _content(fates: Fates, part: int, row: int) -> tuple[object, ...]:
    """What orders the rows of one id; the place only decides between equals."""
    scan = fates.scans[part]
    y = scan.index.array("y")[row].as_py()
    labels = [scan.labels[code] for code in (y if isinstance(y, list) else [y])]
    return (
        scan.index.array("digest")[row].as_py(),
        labels,
        scan.index.array("key")[row].as_py() or "",
        part,
        row,
    )
