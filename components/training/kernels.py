"""What the recurrence runs on: cuDNN's fused kernel over all steps, or a plain loop, one step at a time.

    settings, devices ─▶ why_not_fused ─▶ the setting that prevents cuDNN, or None
    a traced step     ─▶ uses_cudnn    ─▶ whether it is really there

Keras chooses while a graph is traced, and says nothing of its choice.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from components.training.strategy import Devices
from conf.schema import ModelSettings, TrainSettings

FUSED = "cuDNN"
OPERATION = "CudnnRNN"


def why_not_fused(model: ModelSettings, training: TrainSettings, devices: Devices) -> str | None:
    """Why the recurrence of these settings cannot be cuDNN's; None if it can."""
    reasons = {
        "no GPU": devices.kind == "CPU" and training.devices == "auto",
        f"train.devices is {training.devices}": devices.kind == "CPU",
        "model.cell is rnn": model.cell == "rnn",
        f"model.dropout.recurrent is {model.dropout.recurrent:g}": model.dropout.recurrent > 0,
        "model.unroll is true": model.unroll,
        f"train.truncate is {training.truncate}": training.truncate is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def uses_cudnn(graph: Any) -> bool:
    """Whether a GraphDef, or one of the functions it calls, has an operation of cuDNN's recurrence."""
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return any(node.op.startswith(OPERATION) for node in nodes)


def describe(
    model: ModelSettings, training: TrainSettings, devices: Devices, *, graphs: Sequence[tf.Graph]
) -> str:
    """What these traced steps run on, in a few words: `cuDNN`, or `plain loop (no GPU)`.

    Settings that allow cuDNN are not enough: it has to be in the graphs. They may hold it in spite of
    settings that do not, for the characters of tokens.
    """
    reason = why_not_fused(model, training, devices)
    if reason is None and not any(uses_cudnn(graph.as_graph_def()) for graph in graphs):
        reason = "the settings allow cuDNN, but TensorFlow did not take it"
        if model.own is not None:
            # Only here, and no setting that prevents cuDNN: layers of the user's model may well be cuDNN's.
            reason = f"model.own is {model.own}, which holds none of cuDNN's operations"
    return FUSED if reason is None else f"plain loop ({reason})"


def use_loops(network: Any) -> None:
    """Keep a network's recurrences from becoming cuDNN's in graphs traced from now on.

    A graph that is exported with cuDNN's operation runs on no machine without a GPU, and the operation
    refuses rows of no steps, which stretches of sequences (`train.truncate`) have.
    """
    for layer in _recurrent(network):
        layer.use_cudnn = False


def _recurrent(network: Any) -> Iterator[Any]:
    # A part may be a whole model, as the user's own is, or have layers within, as Bidirectional has.
    layers = (layer for part in network.parts for layer in part._flatten_layers())
    return (layer for layer in layers if hasattr(layer, "use_cudnn"))
