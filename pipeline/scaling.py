"""doctor --scaling: what more devices would bring, measured on this machine and on the rows prepared.

    1, 2, 4, ... N devices ─▶ a process each, some seconds of training ─▶ table and advice

The batch of a step stays the same whatever the number of devices, as it does in training.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import ClusterError, DataError
from components.training.progress import MUCH_WAITING
from conf.schema import Settings
from pipeline.console import Console
from pipeline.run import Surroundings, plan

MEASURED_SECONDS = 5.0
LEAST_EFFICIENCY = 0.7
START_SECONDS = 900.0

# Reads one JSON object and writes one: `count` of GPUs, the figures of `measure`, or `error` and `hint`.
PROCESS = """
import json, sys
from pathlib import Path
from conf.schema import Settings
given = json.load(sys.stdin)
if given["what"] == "gpus":
    from components.training.strategy import num_gpus
    found = {"count": num_gpus()}
else:
    from components.errors import RecurraError
    from components.training.throughput import measure
    try:
        settings = Settings.model_validate_json(given["settings"])
        done = measure(settings, Path(given["data"]), devices=given["devices"], seconds=given["seconds"])
        found = {"steps_per_second": done.steps_per_second, "waiting_share": done.waiting_share}
    except RecurraError as error:
        found = {"error": error.message, "hint": error.hint}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Measured:
    """Training on `devices` devices."""

    devices: int
    batch_per_device: str
    steps_per_second: float
    speed_up: float  # against one device
    efficiency: float  # of it for each device, 1 at best
    waiting_share: float  # of the time, with no batch ready


def scaling(settings: Settings, around: Surroundings, *, devices: str | None = None) -> dict[str, Any]:
    """Measure 1, 2, 4, ... N devices; the object that `--json` prints.

    Args:
        settings: of the run.
        around: where its prepared rows are.
        devices: how many at most, in place of `train.devices`.

    Raises:
        DataError: no rows were prepared under these settings.
        ClusterError: fewer GPUs than asked for, or a measurement failed.
    """
    kind, most = _most(devices or settings.train.devices)
    if most == 0:
        advice = (
            "TensorFlow sees no GPU on this machine, so there is nothing to compare. "
            "CPU devices are measured when they are asked for: --devices cpu:4."
        )
        return {"kind": kind, "rows": [], "advice": advice}
    data = _prepared(settings, around)
    found: list[dict[str, float]] = []
    with around.console.progress("scaling", total=len(counts(most)), unit="measurements") as bar:
        for count in counts(most):
            bar.advance(0, devices=count)
            found.append(_measure(settings, data, devices=f"{kind}:{count}", seconds=MEASURED_SECONDS))
            around.console.note(f"{kind}:{count}: {found[-1]['steps_per_second']:,.0f} steps per second")
            bar.advance(1, devices=count)
    rows = table(settings, dict(zip(counts(most), found, strict=True)))
    return {"kind": kind, "rows": [vars(row) for row in rows], "advice": advice_of(rows, kind=kind)}


def counts(most: int) -> list[int]:
    """Powers of two below `most`, and `most`."""
    return [*(2**i for i in range(most.bit_length()) if 2**i < most), most]


def table(settings: Settings, found: Mapping[int, Mapping[str, float]]) -> list[Measured]:
    """What was measured by the number of devices, beside what one device does."""
    alone = found[1]["steps_per_second"]
    rows = []
    for count, each in found.items():
        speed_up = each["steps_per_second"] / alone if alone else 0.0
        rows.append(
            Measured(
                devices=count,
                batch_per_device=_share(settings, count),
                steps_per_second=each["steps_per_second"],
                speed_up=speed_up,
                efficiency=speed_up / count,
                waiting_share=each["waiting_share"],
            )
        )
    return rows


def _share(settings: Settings, count: int) -> str:
    if settings.train.batch_steps is not None:
        return f"{-(-settings.train.batch_steps // count):,} steps"
    return f"{-(-settings.train.batch_size // count):,} rows"


def advice_of(rows: Sequence[Measured], *, kind: str) -> str:
    """In one or two sentences: how many devices are worth it, and whether they wait for batches."""
    good = rows[0]
    for row in rows:
        if row.efficiency < LEAST_EFFICIENCY:
            break
        good = row
    setting = f"train.devices: {kind}:{good.devices}"
    if len(rows) == 1:
        text = f"One device alone has nothing to compare with: --devices {kind}:4 measures up to four."
    elif good is rows[-1]:
        text = f"Up to {good.devices} devices the efficiency is {LEAST_EFFICIENCY:g} or more: {setting}."
    else:
        after = rows[rows.index(good) + 1]
        devices = "1 device" if good.devices == 1 else f"{good.devices} devices"
        text = (
            f"Beyond {devices} it is hardly worth it: {after.devices} have an efficiency of "
            f"{after.efficiency:.2f}, below {LEAST_EFFICIENCY:g}. Take {setting}, or larger batches."
        )
    if good.waiting_share > MUCH_WAITING:
        subject = "The device waits" if good.devices == 1 else "The devices wait"
        text += (
            f" {subject} {good.waiting_share:.0%} of the time for batches: more devices will not help "
            "before the input keeps up."
        )
    return text


def show(found: Mapping[str, Any], *, console: Console) -> None:
    """The table and the advice."""
    if console.as_json:
        console.result("", found)
        return
    header = ["devices", "batch per device", "steps/s", "speed-up", "efficiency", "waiting for input"]
    rows = [
        [
            f"{found['kind']}:{row['devices']}",
            row["batch_per_device"],
            f"{row['steps_per_second']:,.0f}",
            f"{row['speed_up']:.2f}",
            f"{row['efficiency']:.2f}",
            f"{row['waiting_share']:.1%}",
        ]
        for row in found["rows"]
    ]
    if rows:
        console.table("", header, rows)
    console.result(found["advice"])


def _most(devices: str) -> tuple[str, int]:
    """Kind and largest number of devices; of GPUs 0 where none was asked for by number and none is there."""
    kind, _, count = devices.partition(":")
    if kind == "cpu":
        return kind, int(count)
    seen = int(_ask({"what": "gpus"})["count"])
    if count.isdigit() and int(count) > seen:
        raise ClusterError(
            f"{devices!r}: {count} GPUs asked, {seen} seen by TensorFlow.",
            hint="Measure fewer, or CPU devices with --devices cpu:4.",
        )
    return "gpu", int(count) if count.isdigit() else seen


def _prepared(settings: Settings, around: Surroundings) -> Path:
    planned = plan(
        settings, storage=around.storage, tracking_uri=around.tracking_uri, until="prepare"
    ).stages[0]
    if planned.source is None:
        raise DataError(
            f"No rows are prepared under these settings in {around.storage}: {planned.reason}.",
            hint="Run `recurra prepare` with the same settings first.",
        )
    planned.source.bring("data", "tune/data")
    return planned.source.data


def _measure(settings: Settings, data: Path, *, devices: str, seconds: float) -> dict[str, Any]:
    given = {"what": "measure", "data": str(data), "devices": devices, "seconds": seconds}
    found = _ask({**given, "settings": settings.model_dump_json(by_alias=True, exclude_unset=True)})
    if "error" in found:
        raise ClusterError(f"Measuring {devices} failed: {found['error']}", hint=found["hint"])
    return found


def _ask(given: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a process of its own: logical devices are set up once in a process."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROCESS],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"A measurement took longer than {START_SECONDS:.0f} s.") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise ClusterError(f"A measurement failed with exit code {done.returncode}: {last}")
    return dict(json.loads(done.stdout.splitlines()[-1]))
