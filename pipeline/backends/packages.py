"""A bundle as a self-contained MLflow model: raw rows in, labels and probabilities out, nothing pickled.

MLmodel               signature, metadata, input example
pyfunc_model.py       opens the bundle with the bundle's own code (pipeline/templates)
artifacts/bundle/     model, encoding, code
requirements.txt      pinned
settings.yaml         with every default; best.yaml too where a search chose
README.md             the card
lineage.json          rows, code, libraries and machine that the model followed from
history.json          its epochs
metrics.json  verdict.json
profile.json          what training rows were like
"""

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from components.served.seals import sha256

# Text, not a module of this project: MLflow runs it inside the model.
SCRIPT = Path(__file__).parents[1] / "templates" / "pyfunc_model.py.txt"
# The settings that a search found, beside those that it was given.
TUNED = "best.yaml"
BUNDLE, ENTRY = "artifacts/bundle", ("MLmodel", "pyfunc_model.py")
REQUIREMENTS = ("mlflow", "tensorflow", "numpy", "pandas")


@dataclass(frozen=True)
class Packaging:
    """What goes into a model beside the bundle."""

    bundle: Path
    description: Mapping[str, Any]  # bundle.json
    columns: Mapping[str, int]  # how deep the lists of each column are: context 0, plain steps 1, vectors 2
    example: Mapping[str, Sequence[Any]]  # raw ragged rows by column
    files: tuple[Path, ...]  # settings, scores, what training rows were like; those that are there


def save(packaging: Packaging, folder: Path, *, mlflow: Any, model: Any, run: str) -> None:
    """Write the model's files as MLflow lays them out.

    Args:
        packaging: what to write.
        folder: where to.
        mlflow: the module.
        model: MLflow's entry for the model.
        run: MLflow's id of the run that made it.
    """
    import pandas

    about = packaging.description
    script = folder.with_name("pyfunc_model.py")
    shutil.copy(SCRIPT, script)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about MLflow's own use of pandas
        mlflow.pyfunc.save_model(
            path=str(folder),
            mlflow_model=mlflow.models.Model(
                artifact_path=model.artifact_location,
                model_uuid=model.model_id,
                model_id=model.model_id,
                run_id=run,
                metadata={"recurra": {name: about[name] for name in ("task", "name", "epoch", "digest")}},
            ),
            python_model=str(script),
            artifacts={"bundle": str(packaging.bundle)},
            signature=_signature(mlflow, packaging),
            input_example=pandas.DataFrame(dict(packaging.example)),
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in REQUIREMENTS],
        )
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)  # of reading the script
    for path in filter(Path.exists, packaging.files):
        shutil.copy(path, folder / path.name)


def entry(folder: Path) -> dict[str, str]:
    """The SHA-256 of the files by which MLflow gets to the bundle: they name code, and are code."""
    return {name: sha256(folder / name) for name in ENTRY}


def _signature(mlflow: Any, packaging: Packaging) -> Any:
    """Raw ragged rows in, labels and probabilities out."""
    schema, kinds = mlflow.types.schema, mlflow.types.DataType
    column, number = schema.ColSpec, mlflow.types.schema.AnyType()
    # Not Array(Array(double)): MLflow refuses whole numbers for it, in JSON and in Parquet alike.
    shapes = (number, schema.Array(number), schema.Array(schema.Array(number)))
    inputs = [column(shapes[depth], name) for name, depth in packaging.columns.items()]
    text, real = kinds.string, kinds.double
    if packaging.description["task"] == "labelling":
        outputs = [column(schema.Array(text), "labels"), column(schema.Array(real), "probabilities")]
    else:
        outputs = [column(text, "label"), column(real, "probability")]
    if packaging.description["id"] is not None:
        inputs.append(column(number, packaging.description["id"], required=False))
        outputs.insert(0, column(text, "id", required=False))
    options = [
        mlflow.types.ParamSpec("n_best", kinds.long, 0),
        mlflow.types.ParamSpec("distribution", kinds.boolean, False),
    ]
    return mlflow.models.ModelSignature(
        inputs=schema.Schema(inputs), outputs=schema.Schema(outputs), params=mlflow.types.ParamSchema(options)
    )
