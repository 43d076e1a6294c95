"""Devices: from `auto | cpu:N | gpu:N | gpu:all` to a distribution strategy.

1 device   no distribution
N devices  MirroredStrategy: one copy of the weights each, gradients summed
N workers  MultiWorkerMirroredStrategy: the same over processes on several machines, named by TF_CONFIG
"""

import contextlib
import gc
import json
import os
import socket
from dataclasses import dataclass
from typing import Any

import joblib
import keras
import tensorflow as tf

from components.errors import ClusterError
from conf.schema import ModelSettings

# TensorFlow 2.21's wheels are built for compute capability 6.0 to 9.0 (docs/reference, `doctor`).
LAST_CAPABILITY = (9, 0)
# TensorFlow reads these itself, where it was not told in Python.
THREADS_NAMES = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


@dataclass(frozen=True)
class Devices:
    """What `train.devices` came to on this machine."""

    kind: str  # CPU or GPU
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.names)


def num_gpus_wanted(devices: str, *, visible: int) -> int:
    """How many of `visible` GPUs the setting asks for; more than there are for `gpu:N` beyond them."""
    kind, _, count = devices.partition(":")
    if kind == "cpu":
        return 0
    if kind == "auto" or count == "all":
        return visible if kind == "auto" else max(visible, 1)
    return int(count)


def choose(devices: str, *, workers: int = 1) -> Devices:
    """Find the devices and set them up; call it before TensorFlow runs its first operation.

    GPUs grow their memory instead of taking all of it, and those not asked for are put out of sight;
    `cpu:N` makes N logical CPU devices, but of several workers each has one, whatever N.

    Raises:
        ClusterError: fewer GPUs than asked for, or a GPU this TensorFlow cannot use.
    """
    gpus = tf.config.list_physical_devices("GPU")
    wanted = num_gpus_wanted(devices, visible=len(gpus))
    if gpus and wanted <= len(gpus):
        # Without this, what runs on no named device would run on a GPU that was not asked for.
        tf.config.set_visible_devices(gpus[:wanted], "GPU")
    if wanted == 0:
        count = int(devices.partition(":")[2] or 1) if devices.startswith("cpu") and workers == 1 else 1
        return Devices("CPU", _logical_cpus(count))
    if wanted > len(gpus):
        raise ClusterError(
            f"train.devices is {devices!r}: {wanted} GPUs asked, {len(gpus)} seen by TensorFlow.",
            hint="Set train.devices to auto or cpu:1, or run where there are GPUs (`recurra doctor`).",
        )
    for gpu in gpus[:wanted]:
        if fault := _fault(gpu):
            raise ClusterError(f"{fault}.", hint="Use an older GPU, or train.devices=cpu:1.")
    set_up_gpus()
    return Devices("GPU", tuple(f"GPU:{i}" for i in range(wanted)))


def limit_threads(count: int, model: ModelSettings) -> None:
    """Let TensorFlow compute with so many threads; call it before its first operation.

    A recurrence is many small operations, of which those of its two directions do not wait for each other:
    each gets half of the threads. What an encoder or a model of one's own does is few large ones, and each
    gets all of them.

    Raises:
        ClusterError: it computes with another number of them already.
    """
    is_of_large_ones = model.encoder is not None or model.own is not None
    each = count if is_of_large_ones else -(-count // 2)
    threading = tf.config.threading
    try:
        for get, put, wanted in (
            (threading.get_intra_op_parallelism_threads, threading.set_intra_op_parallelism_threads, each),
            (threading.get_inter_op_parallelism_threads, threading.set_inter_op_parallelism_threads, count),
        ):
            if get() != wanted:
                put(wanted)
    except RuntimeError as error:
        raise ClusterError(
            f"TensorFlow has begun, so it cannot be given {count} threads any more."
        ) from error


def use_cores(model: ModelSettings) -> None:
    """Let TensorFlow compute on the cores that this process may use, if nobody has said on how many.

    Where it has begun it goes on as it did: this is about speed alone.
    """
    threading = tf.config.threading
    said = threading.get_intra_op_parallelism_threads() or threading.get_inter_op_parallelism_threads()
    if said or any(name in os.environ for name in THREADS_NAMES):
        return
    with contextlib.suppress(ClusterError):
        limit_threads(joblib.cpu_count(), model)


def forget() -> None:
    """Let go of the graphs of models that are gone, so that the next finds the process as the first did."""
    keras.backend.clear_session()  # collects garbage too


def settle() -> None:
    """Let the garbage collector pass over what is there before the first model: it takes 0.3 s each time."""
    if not gc.get_freeze_count():
        gc.freeze()


def set_up_gpus() -> None:
    """Let GPUs take memory as they need it, and compute as exactly as a CPU, before the first operation.

    Whoever answers with a model does the same as who trained it.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    # Products of float32 are else cut to 10 bits of mantissa on recent GPUs.
    tf.config.experimental.enable_tensor_float_32_execution(False)


def num_gpus() -> int:
    """GPUs that TensorFlow sees and can use."""
    return sum(_fault(gpu) is None for gpu in tf.config.list_physical_devices("GPU"))


def require_gpu() -> None:
    """Nothing where TensorFlow, in this process, sees a GPU that it can use.

    Raises:
        ClusterError: it sees none; says what it does see.
    """
    gpus = tf.config.list_physical_devices("GPU")
    faults = [_fault(gpu) for gpu in gpus]
    if not all(faults):
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = "; ".join(fault for fault in faults if fault) or "no GPU at all"
    if not gpus and hidden is not None:
        seen += f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
    raise ClusterError(
        f"--require-gpu: where training would run ({socket.gethostname()}), TensorFlow {tf.__version__} sees "
        f"no GPU that it can use: {seen}.",
        hint="`recurra doctor` compares what the driver, TensorFlow and Ray see; TensorFlow needs its CUDA "
        "libraries (pip install '.[gpu]'). Leave --require-gpu out to train on CPUs.",
    )


def _fault(gpu: tf.config.PhysicalDevice) -> str | None:
    """Why TensorFlow cannot use this GPU; None if it can."""
    details = tf.config.experimental.get_device_details(gpu)
    capability = details.get("compute_capability", (0, 0))
    if capability <= LAST_CAPABILITY:
        return None
    return (
        f"{details.get('device_name', gpu.name)} has compute capability {_dotted(capability)}; "
        f"TensorFlow {tf.__version__} supports up to {_dotted(LAST_CAPABILITY)}"
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def strategy(devices: Devices, *, workers: int = 1) -> tf.distribute.Strategy:
    """MirroredStrategy over several devices, the default strategy for one.

    With several workers MultiWorkerMirroredStrategy, which waits until all are there.

    Raises:
        ClusterError: TF_CONFIG does not name so many workers.
    """
    if workers > 1:
        named = len(_environment().get("cluster", {}).get("worker", ()))
        if named != workers:
            raise ClusterError(
                f"train.nodes is {workers}, but TF_CONFIG names {named} workers.",
                hint="`recurra train` starts the workers and sets it.",
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if devices.count == 1:
        return tf.distribute.get_strategy()
    # Without NCCL the sum over logical CPUs or GPUs of one machine is an ordinary reduction.
    reduction = None if devices.kind == "GPU" else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(list(devices.names), cross_device_ops=reduction)


def _environment() -> dict[str, Any]:
    return json.loads(os.environ.get("TF_CONFIG", "") or "{}")


def _logical_cpus(count: int) -> tuple[str, ...]:
    cpu = tf.config.list_physical_devices("CPU")[0]
    existing = tf.config.get_logical_device_configuration(cpu)
    if count > 1 and len(existing or ()) < count:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    return tuple(f"CPU:{i}" for i in range(count))


def describe() -> dict[str, str]:
    """What TensorFlow sees on this machine, for `recurra doctor`."""
    build = tf.sysconfig.get_build_info()
    gpus = tf.config.list_physical_devices("GPU")
    names = []
    for gpu in gpus:
        details = tf.config.experimental.get_device_details(gpu)
        name = f"{details.get('device_name', gpu.name)} {_dotted(details.get('compute_capability', (0, 0)))}"
        names.append(_fault(gpu) or name)
    if not gpus:
        kernels = "not used: no GPU"
    elif all(map(_fault, gpus)):
        kernels = "not used: no GPU that this TensorFlow can use"
    else:
        kernels = (
            f"cuDNN {build.get('cudnn_version', '?')}; fused GRU and LSTM unless model.dropout.recurrent, "
            "model.unroll or train.truncate"
        )
    return {"GPUs seen by TensorFlow": "; ".join(names) or "none", "cuDNN": kernels}
