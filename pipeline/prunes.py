"""Old versions of a model, removed: the newest stay, and all that an alias or a rollback may need.

recurra prune words --keep 5 --dry-run
recurra prune words --keep 5 --runs --yes
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.backends import ledger, workspace
from pipeline.backends.aliases import Aliases
from pipeline.backends.registry import RUN_TAG, Version, opened
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console


def prune(
    name: str, *, keep: int, runs: bool, dry_run: bool, storage: Path, tracking_uri: str
) -> dict[str, Any]:
    """Remove versions beyond the newest `keep`; what was removed, and the bytes that it took.

    Args:
        name: of the registered model.
        keep: how many of the newest versions stay whatever they are.
        runs: remove also run folders that are older than every version that stays for its age.
        dry_run: only say what would be removed.
        storage: of the run folders.
        tracking_uri: of the registry.

    Raises:
        ModelError: there is no such model.
        BusyError: another process is changing its aliases.
        TrackerError: MLflow cannot be reached.
    """
    registry = opened(tracking_uri)
    registry.known(name)
    aliases = Aliases(registry, name, storage / name)
    with aliases.held() as turn:
        versions = registry.versions(name)
        if not dry_run:
            for alias in sorted({alias for version in versions for alias in version.aliases}):
                turn.settle(alias)
        reasons = _reasons_to_stay(versions, aliases.history(), keep=keep)
        old = [version for version in reversed(versions) if version.number not in reasons]
        removed = []
        for version in old:
            size = registry.size(version)
            if not dry_run:
                turn.lease.check()
                registry.delete(version)
            removed.append({"version": version.number, "created": version.created, "bytes": size})
    folders = _old_runs(storage, name, versions, reasons, keep=keep, dry_run=dry_run) if runs else []
    return {
        "name": name,
        "dry_run": dry_run,
        "versions": removed,
        "kept": [{"version": number, "because": reasons[number]} for number in sorted(reasons, reverse=True)],
        "runs": folders,
        "bytes": sum(each["bytes"] for each in [*removed, *folders]),
    }


def _reasons_to_stay(
    versions: Sequence[Version], entries: Sequence[ledger.Entry], *, keep: int
) -> dict[int, str]:
    """Why each version that stays does; `versions` are newest first."""
    before: dict[int, str] = {}
    for alias in sorted({alias for version in versions for alias in version.aliases}):
        for number in ledger.trail(entries, alias)[-2:-1]:
            before[number] = f"the one before @{alias}"
    reasons = {}
    for place, version in enumerate(versions):
        if version.aliases:
            reasons[version.number] = " ".join(f"@{alias}" for alias in version.aliases)
        elif version.number in before:
            reasons[version.number] = before[version.number]
        elif RUN_TAG not in version.tags:
            reasons[version.number] = "not registered by recurra"
        elif place < keep:
            reasons[version.number] = f"among the newest {keep}"
    return reasons


def _old_runs(
    storage: Path,
    name: str,
    versions: Sequence[Version],
    reasons: Mapping[int, str],
    *,
    keep: int,
    dry_run: bool,
) -> list[dict[str, Any]]:
    """Remove run folders from before the newest versions, but for those whose version stays."""
    newest = [version.tags[RUN_TAG] for version in versions[:keep] if RUN_TAG in version.tags]
    staying = {version.tags.get(RUN_TAG) for version in versions if version.number in reasons}
    found = []
    for folder in reversed(workspace.runs(storage, name)):
        # Run ids begin with the time, so that they sort by age.
        if folder.run_id in staying or folder.run_id >= min(newest, default=""):
            continue
        with folder.held() as ours:
            if not ours:
                continue
            found.append({"run": folder.run_id, "bytes": _bytes(folder)})
            if not dry_run:
                folder.remove()
    return found


def _bytes(folder: RunFolder) -> int:
    """What removing it frees: files that other runs share by hard links stay there."""
    if (stored := folder.stored_bytes()) is not None:
        return stored
    about = (path.lstat() for path in folder.path.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(each.st_size for each in about if each.st_nlink == 1)


def show(found: Mapping[str, Any], *, console: Console) -> None:
    """What went and what stays."""
    if not console.as_json:
        rows = [[f"version {each['version']}", shown(each["bytes"]), "goes"] for each in found["versions"]]
        rows += [[f"run {each['run']}", shown(each["bytes"]), "goes"] for each in found["runs"]]
        rows += [[f"version {each['version']}", "", f"stays: {each['because']}"] for each in found["kept"]]
        console.table(found["name"], ["what", "size", ""], rows)
    count = f"{len(found['versions'])} versions"
    if found["runs"]:
        count += f" and {len(found['runs'])} run folders"
    told = "would be removed and free" if found["dry_run"] else "removed, which freed"
    console.result(f"{count} {told} {shown(found['bytes'])}.", found)


def shown(size: int) -> str:
    """Bytes as people read them, in units of 1000."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"
