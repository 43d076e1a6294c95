"""predict: a model's answers for new rows, as one Parquet file in the order of the input.

    models:/name@alias ─ resolved once ─▶ version 3 ─ fetched, checked ─▶ bundle ─┐
    files ─ footers ─▶ what to read ──────────────────────────────────────────────┴▶ worker ─▶ OUT.parquet

The file appears whole or not at all, and its metadata says which version answered.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import bundles
from components.data.readers import expand
from components.errors import DataError, ModelError, StorageError
from pipeline.backends.cluster import Cluster
from pipeline.backends.registry import Registry
from pipeline.backends.tracking import Store
from pipeline.console import Console

if TYPE_CHECKING:
    from components.evaluation.new_rows import Task

PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Source:
    """The model that answers: its bundle, and how it is called for good."""

    bundle: Path
    uri: str  # models:/name/3, or the run folder's path


def predict(
    model: str,
    data: Sequence[str],
    *,
    out: Path,
    tracking_uri: str,
    cluster: Cluster,
    console: Console,
    id_column: str | None = None,
    file_format: str = "auto",
    n_best: int = 0,
    distribution: bool = False,
    scratch: Path | None = None,
) -> dict[str, Any]:
    """Answer every row of the data; gives back the model's URI, the number of rows and the file.

    Args:
        model: models:/name@alias, models:/name/3 or a run folder.
        data: files, folders and globs.
        out: the Parquet file to write.
        tracking_uri: the MLflow that knows the model.
        id_column: handed through as `id`; the one that the model was trained with when not given.
        file_format: auto, or a reader's name.
        n_best: also the n most probable labels of each row or step.
        distribution: also the probability of every label.
        scratch: where a registered model's files are put meanwhile; workers must see it too.

    Raises:
        ModelError: there is no such model, or its files are not those that were registered.
        DataError: rows or files that do not fit, with their places; nothing was written.
    """
    from components.evaluation import new_rows

    files = expand(list(data), file_format)
    if str(out.resolve()) in [os.path.realpath(file.path) for file in files if not file.is_remote]:
        raise DataError(f"{out} is one of the files to read.", hint="Choose another name with -o.")
    with ExitStack() as stack:
        source = _source(model, tracking_uri=tracking_uri, scratch=scratch, stack=stack)
        about, encoding = bundles.describe(source.bundle), bundles.encoding(source.bundle)
        if n_best > encoding.num_classes:
            raise ModelError(f"n_best is {n_best}, but {source.uri} has {encoding.num_classes} labels.")
        imports = stack.enter_context(tempfile.TemporaryDirectory(prefix="recurra-", dir=scratch))
        task = new_rows.open_task(
            files,
            encoding,
            own_id=about["id"],
            id_column=id_column,
            file_format=file_format,
            layout=about.get("layout"),
            scratch=imports,
            n_best=n_best,
            distribution=distribution,
        )
        console.note(f"Predicting {task.num_rows:,} rows with {source.uri}")
        labels = json.dumps(encoding.labels, ensure_ascii=False)
        metadata = {"recurra.model": source.uri, "recurra.bundle_digest": about["digest"]}
        metadata["recurra.labels"] = labels
        answers = cluster.worker().stream(new_rows.answers, bundle=source.bundle, task=task)
        _write(answers, out, task, metadata=metadata, console=console)
    return {"model": source.uri, "rows": task.num_rows, "out": str(out), "digest": about["digest"]}


def _write(
    answers: Iterator[Any], out: Path, task: "Task", *, metadata: Mapping[str, str], console: Console
) -> None:
    with (
        _whole_file(out, task.schema.with_metadata(metadata)) as writer,
        console.progress("predict", total=task.num_rows, unit="rows") as bar,
    ):
        for batch in answers:
            writer.write_batch(batch.replace_schema_metadata(metadata))
            bar.advance(len(batch))


def _source(model: str, *, tracking_uri: str, scratch: Path | None, stack: ExitStack) -> Source:
    if model.startswith("models:"):
        registry = Registry(Store(tracking_uri, patience=PATIENCE_SECONDS))
        version = registry.resolve(model)
        return Source(stack.enter_context(registry.fetch(version, parent=scratch)), version.uri)
    folder = Path(model).absolute()
    for bundle in (folder / "bundle", folder):
        if (bundle / "bundle.json").is_file():
            return Source(bundle, str(folder))
    raise ModelError(
        f"There is no model in {folder}.",
        hint="Give models:/name@alias, models:/name/3, or the folder of a run that was trained.",
    )


@contextmanager
def _whole_file(path: Path, schema: Any) -> Iterator[Any]:
    """A Parquet writer whose file gets its name only when the block ends well."""
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            yield writer
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):  # there is nothing to remove
            temporary.unlink()
