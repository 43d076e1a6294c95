"""What a model followed from, as far as the settings do not say it: rows, code, libraries, machine.

lineage.json   {"splits": {split: {"rows", "steps", "digest"}}, "encoding", "code", "versions": {...},
                "machine", "kernel", "epochs"}

It goes with a registered version, so that the model can be trained again and what has changed can be named.
"""

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from components import bundles
from components.data.shards import content_digest
from pipeline.backends import workspace
from pipeline.backends.workspace import RunFolder

LINEAGE = "lineage.json"
CODE = ("conf", "components", "pipeline")


def lineage(folder: RunFolder) -> dict[str, Any]:
    """Of a run that was trained; the digest of rows follows from their content, not from where they lay."""
    manifest = json.loads((folder.data / "manifest.json").read_text("utf8"))
    encoding = json.loads((folder.data / "encoding.json").read_text("utf8"))
    trained = folder.summary("train") or {}
    return {
        "splits": {
            split: {
                "rows": about["rows"],
                "steps": about["steps"],
                "digest": content_digest(folder.data / split),
            }
            for split, about in manifest["splits"].items()
        },
        "encoding": workspace.fingerprint(encoding),
        "code": code_version(),
        "versions": folder.read()["versions"],
        "machine": platform.machine(),
        "kernel": trained.get("kernel", ""),
        "epochs": trained.get("epochs"),
    }


def write(folder: RunFolder) -> Path:
    """Write the lineage beside the evaluation; its path."""
    path = folder.evaluation / LINEAGE
    workspace.write_json(path, lineage(folder))
    return path


def read(folder: RunFolder) -> dict[str, Any]:
    """What was written, or would be."""
    path = folder.evaluation / LINEAGE
    return json.loads(path.read_text("utf8")) if path.exists() else lineage(folder)


def code_version() -> str:
    """The release, and a digest of the source as it lies here."""
    root = Path(bundles.__file__).parents[1]
    sources = [path for name in CODE for path in (root / name).rglob("*.py")]
    return f"{metadata.version('recurra')}+{workspace.code_digest(sources)[:12]}"
