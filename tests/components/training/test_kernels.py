"""What the recurrence runs on: said by the settings, and read off graphs traced as if there were a GPU."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.data.batches import SequenceSet
from components.networks import models
from components.served.encoding import Slot
from components.training import kernels
from components.training.checkpoints import Checkpoints
from components.training.loop import fit
from components.training.strategy import Devices
from conf.schema import ModelSettings, TrainSettings

CPU, GPU = Devices("CPU", ("CPU:0",)), Devices("GPU", ("GPU:0",))
REASONS = [
    ({}, {}, None),
    ({"cell": "lstm"}, {}, None),
    ({}, {"steps_per_call": 1}, None),
    ({"bidirectional": True, "layers": 2}, {"precision": "float16"}, None),
    ({"dropout": {"input": 0.5, "output": 0.5}}, {}, None),
    ({"cell": "rnn"}, {}, "model.cell is rnn"),
    ({"dropout": {"recurrent": 0.25}}, {}, "model.dropout.recurrent is 0.25"),
    ({"unroll": True}, {}, "model.unroll is true"),
    ({}, {"truncate": 4}, "train.truncate is 4"),
]


def settings(model: dict[str, Any], training: dict[str, Any]) -> tuple[ModelSettings, TrainSettings]:
    return ModelSettings.model_validate({"units": 3, **model}), TrainSettings.model_validate(training)


def graph_of(*operations: str, within: str | None = None) -> tf.compat.v1.GraphDef:
    """A graph definition of these operations, in a function of it where `within` names one."""
    graph = tf.compat.v1.GraphDef()
    nodes: Any = graph.node
    if within is not None:
        function = graph.library.function.add()
        function.signature.name = within
        nodes = function.node_def
    for place, operation in enumerate(operations):
        nodes.add(name=f"node_{place}", op=operation)
    return graph


@pytest.fixture
def as_if_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras traces what it would trace beside a GPU; such a graph cannot be run here."""
    # By its name in `sys.modules`: as an attribute of its package it is a function.
    monkeypatch.setattr(sys.modules["keras.src.backend.tensorflow.rnn"], "_is_gpu_available", lambda: True)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: [f"/device:{kind}:0"])


@pytest.mark.parametrize(("model", "training", "reason"), REASONS)
def test_a_setting_that_prevents_cudnn_is_named(
    model: dict[str, Any], training: dict[str, Any], reason: str | None
) -> None:
    assert kernels.why_not_fused(*settings(model, training), GPU) == reason


@pytest.mark.parametrize(("devices", "reason"), [("auto", "no GPU"), ("cpu:2", "train.devices is cpu:2")])
def test_without_a_gpu_that_is_the_reason(devices: str, reason: str) -> None:
    said = settings({"cell": "rnn"}, {"devices": devices})
    assert kernels.why_not_fused(*said, CPU) == reason
    assert kernels.describe(*said, CPU, graphs=[]) == f"plain loop ({reason})"


@pytest.mark.parametrize("within", [None, "forward"])
@pytest.mark.parametrize("operation", ["CudnnRNN", "CudnnRNNV3", "CudnnRNNBackpropV3"])
def test_the_operation_is_found_in_a_graph_and_in_its_functions(operation: str, within: str | None) -> None:
    assert kernels.uses_cudnn(graph_of("MatMul", operation, within=within))
    assert not kernels.uses_cudnn(graph_of("MatMul", "While", "Conv2D", within=within))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({}, "the settings allow cuDNN, but TensorFlow did not take it"),
        ({"own": "mine:build"}, "model.own is mine:build, which holds none of cuDNN's operations"),
    ],
)
def test_settings_alone_are_no_proof(model: dict[str, Any], reason: str) -> None:
    class Traced:
        def __init__(self, *operations: str) -> None:
            self.operations = operations

        def as_graph_def(self) -> tf.compat.v1.GraphDef:
            return graph_of(*self.operations, within="step")

    plain: Any = Traced("While")
    fused: Any = Traced("CudnnRNNV3")
    made = ModelSettings.model_validate(model)
    assert kernels.describe(made, TrainSettings(), GPU, graphs=[plain, fused]) == "cuDNN"
    assert kernels.describe(made, TrainSettings(), GPU, graphs=[plain]) == f"plain loop ({reason})"


def graphs_of_a_run(
    rows: SequenceSet, folder: Path, model: ModelSettings, training: TrainSettings
) -> list[tf.Graph]:
    """The graphs of the step that these settings train with, traced and not run."""
    run = fit(
        rows,
        rows,
        task="labelling",
        labels=("a", "b", "c", "d"),
        model=model,
        training=training,
        checkpoints=Checkpoints(folder, "key"),
    ).gi_frame.f_locals["self"]  # type: ignore[attr-defined]
    parts, _ = run._training_batches(run._plan()[0])
    length = parts[0].x.shape[1] if model.unroll else None
    name = "packed" if run.pace.most > 1 else "stretch" if training.truncate else "train"
    run.steps._graph(name, length)
    return list(run.steps.training_graphs())


@pytest.mark.slow
@pytest.mark.usefixtures("as_if_gpu")
@pytest.mark.parametrize(("model", "training", "reason"), REASONS)
def test_what_the_settings_say_is_what_keras_traces_beside_a_gpu(
    make_set: Callable[..., SequenceSet],
    tmp_path: Path,
    model: dict[str, Any],
    training: dict[str, Any],
    reason: str | None,
) -> None:
    said = settings(model, {"batch_size": 4, "devices": "cpu:1", **training})
    graphs = graphs_of_a_run(make_set([5, 5, 5, 5]), tmp_path, *said)
    assert [kernels.uses_cudnn(graph.as_graph_def()) for graph in graphs] == [reason is None]
    assert kernels.describe(*said, GPU, graphs=graphs) == (
        "cuDNN" if reason is None else f"plain loop ({reason})"
    )


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("GRU(3, return_sequences=True)", "cuDNN"),
        ("Bidirectional(keras.layers.LSTM(3, return_sequences=True))", "cuDNN"),
        ("Dense(3)", "plain loop (model.own is mine:build, which holds none of cuDNN's operations)"),
    ],
)
def test_a_network_of_the_users_own_may_hold_cudnn_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, layer: str, said: str
) -> None:
    (tmp_path / "mine.py").write_text(
        "import keras\n"
        "def build(num_features, per_step):\n"
        "    x = keras.Input((None, num_features))\n"
        f"    return keras.Model(x, keras.layers.{layer}(x))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    model = ModelSettings(own="mine:build")
    network = models.build(model, task="labelling", slots=(Slot("numbers", 3),), num_classes=2, seed=0)
    # Not before: a network that is built is also called.
    request.getfixturevalue("as_if_gpu")
    x, lengths = tf.TensorSpec((None, None, 3)), tf.TensorSpec((None,), tf.int32)

    def traced() -> tf.Graph:
        return tf.function(network.logits, autograph=False).get_concrete_function(x, lengths).graph

    assert kernels.describe(model, TrainSettings(), GPU, graphs=[traced()]) == said
    kernels.use_loops(network)  # as for an export
    assert not kernels.uses_cudnn(traced().as_graph_def())


@pytest.mark.usefixtures("as_if_gpu")
@pytest.mark.parametrize("stepwise", [False, True])
def test_a_model_exported_beside_a_gpu_answers_without_one(
    make_set: Callable[..., SequenceSet], tmp_path: Path, stepwise: bool
) -> None:
    network = models.build(
        ModelSettings(units=3), task="labelling", slots=make_set([2]).slots, num_classes=2, seed=0
    )
    kernels.use_loops(network)
    models.export(network, tmp_path / "model", stepwise=stepwise)
    model = tf.saved_model.load(str(tmp_path / "model"))
    answer = model.signatures["serving_default"](x=tf.ones((2, 4, 3)), length=tf.constant([4, 1]))
    assert np.isfinite(answer["log_probabilities"].numpy()).all()
