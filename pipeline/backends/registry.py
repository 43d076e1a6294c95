"""Registered models: a bundle as a self-contained MLflow model, its versions, and who is champion.

log      bundle/ ─ save_model ─▶ MLmodel, pyfunc_model.py, artifacts/bundle/, settings.yaml, ...
create   that model as the next version of its name; once per run, also after a kill
resolve  models:/name@alias or models:/name/3 to one version
fetch    a version's bundle, its digest checked against the version's tag
"""

import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.bundles import describe
from components.errors import ModelError
from components.lookup import nearest
from components.served.seals import sha256
from pipeline.backends.addresses import redact, scheme_of
from pipeline.backends.deliveries import MAX_TAG, NotThere, Refused, shortened
from pipeline.backends.packages import BUNDLE, Packaging, entry, save
from pipeline.backends.tracking import Store

RUN_TAG, DIGEST_TAG, MODEL_TAG = "recurra.run_id", "recurra.bundle_digest", "recurra.mlflow_model_id"
ENTRY_TAG = "recurra.entry_digests"
COMMAND_SECONDS = 10.0
_RUN_MAKES_ONE = "`recurra run` registers one."
MODEL_URI = re.compile(r"models:/(?P<name>[^/@:]+)(?:/(?P<number>\d+)|@(?P<alias>[\w-]+))")


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: int
    created: str  # ISO 8601, UTC
    run_id: str  # MLflow's
    tags: Mapping[str, str]
    aliases: tuple[str, ...]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"


class Registry:
    """The model registry of one MLflow."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def log(self, packaging: Packaging, *, run: str, experiment: str, key: str) -> str:
        """Store the model's files; gives back MLflow's id of the model, the same one for the same key.

        Args:
            packaging: what to store.
            run: MLflow's id of the run that made it.
            experiment: MLflow's id of the experiment.
            key: of the pipeline's run, under which the model is found again after a kill.
        """
        digest = packaging.description["digest"]
        where = f"tags.`{RUN_TAG}` = '{key}' and tags.`{DIGEST_TAG}` = '{digest}'"
        found = self.store.patiently(lambda client: client.search_logged_models([experiment], where))
        if found and found[0].status == "READY":
            return found[0].model_id
        model = (
            found[0]
            if found
            else self.store.patiently(
                lambda client: client.create_logged_model(
                    experiment,
                    name=packaging.description["name"],
                    source_run_id=run,
                    tags={RUN_TAG: key, DIGEST_TAG: digest},
                )
            )
        )
        with tempfile.TemporaryDirectory(prefix="recurra-model-") as scratch:
            folder = Path(scratch) / "model"
            save(packaging, folder, mlflow=self.store.mlflow, model=model, run=run)
            tags = {ENTRY_TAG: json.dumps(entry(folder))}
            self.store.patiently(lambda client: client.set_logged_model_tags(model.model_id, tags))
            self.store.patiently(lambda client: client.log_model_artifacts(model.model_id, str(folder)))
        self.store.patiently(lambda client: client.finalize_logged_model(model.model_id, "READY"))
        output = self.store.mlflow.entities.LoggedModelOutput(model.model_id, step=0)
        self.store.patiently(lambda client: client.log_outputs(run, [output]))
        return model.model_id

    def attach(self, model_id: str, path: Path) -> None:
        """Put a file beside a stored model, in place of one of the same name."""
        self.store.patiently(lambda client: client.log_model_artifact(model_id, str(path)))

    def create(self, name: str, *, model_id: str, run: str, key: str, tags: Mapping[str, str]) -> Version:
        """The version of this model under this name: a new one, or the one made before a kill."""
        model = self.store.patiently(lambda client: client.get_logged_model(model_id))
        # A database's client looks models:/ up in the process's default store, which need not be this one.
        served = scheme_of(self.store.uri) in ("http", "https")
        source = f"models:/{model_id}" if served else model.artifact_location
        self._ensure_name(name)

        known = {name: model.tags[name] for name in (ENTRY_TAG,) if name in model.tags}
        all_tags = {**_cut(tags), **known, RUN_TAG: key, MODEL_TAG: model_id}

        def find_or_create(client: Any) -> Any:
            return self._of_run(client, name, key) or client.create_model_version(
                name, source, run_id=run, tags=all_tags, model_id=model_id
            )

        made = self.store.patiently(find_or_create)
        version = self.get(name, int(made.version))
        assert version is not None
        return version

    def of_run(self, name: str, key: str) -> Version | None:
        """The version that the pipeline's run `key` made, if it did."""
        found = self.store.patiently(lambda client: self._of_run(client, name, key))
        return None if found is None else self.get(name, int(found.version))

    def get(self, name: str, number: int) -> Version | None:
        """One version, or None."""
        return next((version for version in self.versions(name) if version.number == number), None)

    def by_alias(self, name: str, alias: str) -> Version | None:
        """The version that an alias points to, or None."""
        return next((version for version in self.versions(name) if alias in version.aliases), None)

    def versions(self, name: str) -> list[Version]:
        """All versions of a name, newest first; none when the name is not there."""
        try:
            model = self.store.patiently(lambda client: client.get_registered_model(name))
        except NotThere:
            return []
        aliases: dict[int, list[str]] = {}
        for alias, number in model.aliases.items():
            aliases.setdefault(int(number), []).append(alias)
        found = [
            Version(
                name=name,
                number=int(version.version),
                created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(
                    timespec="seconds"
                ),
                run_id=version.run_id or "",
                tags=dict(version.tags),
                aliases=tuple(sorted(aliases.get(int(version.version), []))),
            )
            for version in self._search(f"name = '{name}'")
        ]
        return sorted(found, key=lambda version: version.number, reverse=True)

    def known(self, name: str) -> list[Version]:
        """All versions of a name, newest first.

        Raises:
            ModelError: there are none.
        """
        if self.store.is_empty:
            raise ModelError(
                f"There is no registered model {name!r}: {redact(self.store.uri)} is not there yet.",
                hint="`recurra run` makes it; or name another one with --tracking-uri.",
            )
        versions = self.versions(name)
        if not versions:
            names = self.names()
            if name in names:
                raise ModelError(f"The registered model {name!r} has no versions.", hint=_RUN_MAKES_ONE)
            near = nearest(name, names)
            raise ModelError(
                f"There is no registered model {name!r}.",
                hint=f"Did you mean {near!r}?" if near else _RUN_MAKES_ONE,
            )
        return versions

    def resolve(self, uri: str) -> Version:
        """The version that `models:/name@alias` or `models:/name/3` means now.

        Raises:
            ModelError: there is none, or the URI is not of these kinds.
        """
        parts = MODEL_URI.fullmatch(uri)
        if parts is None:
            raise ModelError(f"received {uri!r}, expected models:/name@alias or models:/name/version.")
        name, number, alias = parts["name"], parts["number"], parts["alias"]
        versions = self.known(name)
        for version in versions:
            if alias in version.aliases or str(version.number) == number:
                return version
        known = ", ".join(f"{v.number}{''.join(f' @{a}' for a in v.aliases)}" for v in versions[:20])
        what = f"version {number}" if number else f"alias {alias!r}"
        raise ModelError(f"{name!r} has no {what}.", hint=f"Its versions: {known}.")

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""

        def set_all(client: Any) -> None:
            for key, value in _cut(tags).items():
                client.set_model_version_tag(version.name, str(version.number), key, value)

        self.store.patiently(set_all)

    def describe(self, version: Version, text: str) -> None:
        """Set what MLflow shows of a version."""
        self.store.patiently(
            lambda client: client.update_model_version(version.name, str(version.number), description=text)
        )

    def point(self, name: str, alias: str, number: int) -> None:
        """Let an alias point to a version."""
        self.store.patiently(lambda client: client.set_registered_model_alias(name, alias, str(number)))

    def name_tags(self, name: str) -> dict[str, str]:
        """The tags of the registered model itself; none when it is not there."""
        try:
            return dict(self.store.patiently(lambda client: client.get_registered_model(name)).tags)
        except NotThere:
            return {}

    def tag_name(self, name: str, key: str, value: str) -> None:
        """Set a tag of the registered model itself."""
        self.store.patiently(lambda client: client.set_registered_model_tag(name, key, value))

    def names(self) -> list[str]:
        """The names of all registered models."""

        def all_pages(client: Any) -> list[Any]:
            page = client.search_registered_models()
            found = list(page)
            while page.token:
                page = client.search_registered_models(page_token=page.token)
                found += page
            return found

        return [] if self.store.is_empty else [model.name for model in self.store.patiently(all_pages)]

    def read(self, version: Version, file: str) -> str | None:
        """A text file that stands beside the version's model, or None."""
        folder, _, name = f"{self._place(version)}/{file}".rpartition("/")
        with tempfile.TemporaryDirectory(prefix="recurra-file-") as scratch:
            try:
                if name not in self._names(folder):
                    return None
                return Path(self._downloaded(f"{folder}/{name}", scratch)).read_text("utf8")
            except Refused:
                return None

    def inputs(self, version: Version) -> dict[str, dict[str, Any]]:
        """What data the version's run told of, by split: digest, rows and steps."""
        try:
            run = self.store.patiently(lambda client: client.get_run(version.run_id))
        except Refused:  # deleted, or never there
            return {}
        found = {}
        for given in run.inputs.dataset_inputs:
            split = given.dataset.name.rpartition("-")[2]
            found[split] = {"digest": given.dataset.digest, **json.loads(given.dataset.profile or "{}")}
        return found

    def size(self, version: Version) -> int:
        """Bytes that the files of the version's model take; 0 where another version shares them."""
        return 0 if self._is_shared(version) else self._bytes(self._place(version))

    def delete(self, version: Version) -> None:
        """Remove a version and, unless another version shares them, the files of its model.

        Files first: a version that a kill leaves is seen and removed the next time, files would not be.
        """
        if not self._is_shared(version):
            place, uri = self._place(version), self.store.uri
            repository = self.store.mlflow.store.artifact.artifact_repository_registry
            if self._bytes(place):
                self.store.patiently(
                    lambda client: repository.get_artifact_repository(
                        place, tracking_uri=uri
                    ).delete_artifacts()
                )
            if model := version.tags.get(MODEL_TAG):
                with suppress(NotThere):
                    self.store.patiently(lambda client: client.delete_logged_model(model))
        number = str(version.number)
        self.store.patiently(lambda client: client.delete_model_version(version.name, number))

    def _is_shared(self, version: Version) -> bool:
        where = f"tags.`{MODEL_TAG}` = '{version.tags.get(MODEL_TAG, '')}'"
        return MODEL_TAG in version.tags and len(self._search(where)) > 1

    def _bytes(self, place: str) -> int:
        files = self._listed(place)
        total = 0
        while files:
            file = files.pop()
            if file.is_dir:
                files += self._listed(f"{place}/{file.path}")
            total += file.file_size or 0
        return total

    def _place(self, version: Version) -> str:
        """Where the version's files lie."""
        place: str = self.store.patiently(
            lambda client: client.get_model_version_download_uri(version.name, str(version.number))
        )
        return place.rstrip("/")

    @contextmanager
    def fetch(self, version: Version, *, parent: Path | None = None) -> Iterator[Path]:
        """The version's bundle, in a folder under `parent`, for as long as the block lasts.

        Raises:
            ModelError: its files are gone, or it is not one of ours, or not what was registered.
        """
        with tempfile.TemporaryDirectory(prefix=".bundle-", dir=parent) as scratch:
            yield self._download(version, scratch)

    def check_entry(self, version: Version) -> None:
        """See that the files by which MLflow gets to the version's bundle are those that were registered.

        Versions of releases that kept no digest of them pass.

        Raises:
            ModelError: a file is gone, or another one.
        """
        place, expected = self._place(version), entry_of(version)
        there = {Path(each.path).name for each in self._listed(place)} if expected else set()
        with tempfile.TemporaryDirectory(prefix="recurra-entry-") as scratch:
            for name, digest in expected.items():
                if name not in there:
                    raise ModelError(f"{name} of {version.uri} is gone.", hint="Was it moved or deleted?")
                if sha256(Path(self._downloaded(f"{place}/{name}", scratch))) != digest:
                    raise ModelError(
                        f"{name} of {version.uri} is not the one that was registered.",
                        hint="Whoever loads the model runs what it names. Register a model again.",
                    )

    @contextmanager
    def carried(self, version: Version, names: Collection[str]) -> Iterator[dict[str, Path]]:
        """Files that lie beside the version's bundle, those of the names that are there, for a block's time.

        Raises:
            ModelError: its files are gone.
        """
        place = self._place(version)
        there = self._names(place)
        if not there:
            raise ModelError(f"The files of {version.uri} are gone.", hint="Were they moved or deleted?")
        with tempfile.TemporaryDirectory(prefix="recurra-carried-") as scratch:
            yield {name: Path(self._downloaded(f"{place}/{name}", scratch)) for name in there & set(names)}

    def _download(self, version: Version, scratch: str) -> Path:
        place = self._place(version)
        try:
            folder = Path(self._copied(f"{place}/{BUNDLE}", scratch))
            # Compiled code has no checksum; whoever loads a model in place may leave some in the store.
            for compiled in list(folder.rglob("__pycache__")):
                shutil.rmtree(compiled)
            about = describe(folder)
        except (Refused, ModelError) as error:
            raise ModelError(
                f"The files of {version.uri} cannot be used: {error}",
                hint="Were they moved or deleted? Only models that recurra registered can be used here.",
            ) from error
        if version.tags.get(DIGEST_TAG) != about["digest"]:
            raise ModelError(f"The files of {version.uri} are not those that were registered.")
        return folder

    def _copied(self, place: str, scratch: str) -> str:
        if not self._names(place):
            raise Refused("they are not there.")
        return self._downloaded(place, scratch)

    def _names(self, place: str) -> set[str]:
        """The files and folders there. A download takes its time to find that there is nothing."""
        return {Path(each.path).name for each in self._listed(place)}

    def _listed(self, place: str) -> list[Any]:
        artifacts, uri = self.store.mlflow.artifacts, self.store.uri
        return list(
            self.store.patiently(
                lambda client: artifacts.list_artifacts(artifact_uri=place, tracking_uri=uri)
            )
        )

    def _downloaded(self, place: str, scratch: str) -> str:
        artifacts, uri = self.store.mlflow.artifacts, self.store.uri
        return self.store.patiently(
            lambda client: artifacts.download_artifacts(
                artifact_uri=place, dst_path=scratch, tracking_uri=uri
            )
        )

    def _ensure_name(self, name: str) -> None:
        try:
            self.store.patiently(lambda client: client.create_registered_model(name))
        except Refused:  # it is there already
            self.store.patiently(lambda client: client.get_registered_model(name))

    def _of_run(self, client: Any, name: str, key: str) -> Any:
        found = client.search_model_versions(f"name = '{name}' and tags.`{RUN_TAG}` = '{key}'")
        return found[0] if found else None

    def _search(self, where: str) -> list[Any]:
        def all_pages(client: Any) -> list[Any]:
            page = client.search_model_versions(where)
            found = list(page)
            while page.token:
                page = client.search_model_versions(where, page_token=page.token)
                found += page
            return found

        return self.store.patiently(all_pages)


def entry_of(version: Version) -> dict[str, str]:
    """The SHA-256 of the files by which MLflow gets to the version's bundle, by name."""
    found: dict[str, str] = json.loads(version.tags.get(ENTRY_TAG, "{}"))
    return found


def opened(uri: str) -> Registry:
    """The registry for a command that somebody waits for."""
    return Registry(Store(uri, patience=COMMAND_SECONDS))


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: shortened(value, MAX_TAG) for key, value in tags.items()}
