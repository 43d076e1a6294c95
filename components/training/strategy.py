"""Devices: from `auto | cpu:N | gpu:N | gpu:all` to a distribution strategy.

1 device   no distribution
N devices  MirroredStrategy: one copy of the weights each, gradients summed
"""

from dataclasses import dataclass

import tensorflow as tf

from components.errors import ClusterError

# TensorFlow 2.21's wheels are built for compute capability 6.0 to 9.0 (docs/reference, `doctor`).
LAST_CAPABILITY = (9, 0)


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


def choose(devices: str) -> Devices:
    """Find the devices and set them up; call it before TensorFlow runs its first operation.

    GPUs grow their memory instead of taking all of it; `cpu:N` makes N logical CPU devices.

    Raises:
        ClusterError: fewer GPUs than asked for, or a GPU this TensorFlow cannot use.
    """
    gpus = tf.config.list_physical_devices("GPU")
    wanted = num_gpus_wanted(devices, visible=len(gpus))
    if wanted == 0:
        count = int(devices.partition(":")[2] or 1) if devices.startswith("cpu") else 1
        return Devices("CPU", _logical_cpus(count))
    if wanted > len(gpus):
        raise ClusterError(
            f"train.devices is {devices!r}: {wanted} GPUs asked, {len(gpus)} seen by TensorFlow.",
            hint="Set train.devices to auto or cpu:1, or run where there are GPUs (`recurra doctor`).",
        )
    for gpu in gpus[:wanted]:
        details = tf.config.experimental.get_device_details(gpu)
        if details.get("compute_capability", (0, 0)) > LAST_CAPABILITY:
            raise ClusterError(
                f"{details.get('device_name', gpu.name)} has compute capability "
                f"{'.'.join(map(str, details['compute_capability']))}; TensorFlow {tf.__version__} supports "
                f"up to {'.'.join(map(str, LAST_CAPABILITY))}.",
                hint="Use an older GPU, or train.devices=cpu:1.",
            )
        tf.config.experimental.set_memory_growth(gpu, True)
    return Devices("GPU", tuple(f"GPU:{i}" for i in range(wanted)))


def strategy(devices: Devices) -> tf.distribute.Strategy:
    """MirroredStrategy over several devices, the default strategy for one."""
    if devices.count == 1:
        return tf.distribute.get_strategy()
    # Without NCCL the sum over logical CPUs or GPUs of one machine is an ordinary reduction.
    reduction = None if devices.kind == "GPU" else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(list(devices.names), cross_device_ops=reduction)


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
        capability = details.get("compute_capability", (0, 0))
        too_new = " (too new for this TensorFlow)" if capability > LAST_CAPABILITY else ""
        names.append(f"{details.get('device_name', gpu.name)} {'.'.join(map(str, capability))}{too_new}")
    if build.get("is_cuda_build") and gpus:
        kernels = (
            f"cuDNN {build.get('cudnn_version', '?')}; fused GRU and LSTM unless model.dropout.recurrent"
        )
    else:
        kernels = "not used: no GPU"
    return {"GPUs seen by TensorFlow": "; ".join(names) or "none", "cuDNN": kernels}
