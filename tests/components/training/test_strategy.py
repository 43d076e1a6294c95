"""Devices from a setting."""

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from components.errors import ClusterError
from components.training.strategy import (
    Devices,
    choose,
    describe,
    num_gpus,
    num_gpus_wanted,
    require_gpu,
    strategy,
)


@pytest.mark.parametrize(
    ("devices", "visible", "wanted"),
    [
        ("auto", 0, 0),
        ("auto", 4, 4),
        ("cpu:2", 4, 0),
        ("gpu:2", 4, 2),
        ("gpu:3", 0, 3),
        ("gpu:all", 4, 4),
        ("gpu:all", 0, 1),
    ],
)
def test_how_many_gpus_a_setting_asks_for(devices: str, visible: int, wanted: int) -> None:
    assert num_gpus_wanted(devices, visible=visible) == wanted


def test_logical_cpus_are_the_devices_asked_for() -> None:
    assert choose("cpu:3") == Devices("CPU", ("CPU:0", "CPU:1", "CPU:2"))
    assert len(tf.config.list_logical_devices("CPU")) >= 3
    assert choose("cpu:1").count == 1


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has GPUs")
@pytest.mark.parametrize(("devices", "asked"), [("gpu:2", 2), ("gpu:all", 1)])
def test_gpus_that_are_not_there_are_counted(devices: str, asked: int) -> None:
    with pytest.raises(ClusterError, match=f"{asked} GPUs asked, 0 seen") as caught:
        choose(devices)
    assert "cpu:1" in caught.value.hint


def test_one_device_is_not_mirrored_and_several_are() -> None:
    assert not isinstance(strategy(Devices("CPU", ("CPU:0",))), tf.distribute.MirroredStrategy)
    mirrored = strategy(Devices("CPU", ("CPU:0", "CPU:1")))
    assert isinstance(mirrored, tf.distribute.MirroredStrategy)
    assert mirrored.num_replicas_in_sync == 2


def test_workers_that_nobody_named_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["127.0.0.1:1"]}}')
    with pytest.raises(ClusterError, match=r"train\.nodes is 2, but TF_CONFIG names 1 workers"):
        strategy(Devices("CPU", ("CPU:0",)), workers=2)


def test_each_of_several_workers_has_one_cpu_device() -> None:
    assert choose("cpu:3", workers=2) == Devices("CPU", ("CPU:0",))


def test_the_doctor_hears_what_tensorflow_sees() -> None:
    assert set(describe()) == {"GPUs seen by TensorFlow", "cuDNN"}


class Gpus:
    """GPUs of these compute capabilities, in place of the machine's; what is set of them is kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
        gpus = [
            tf.config.PhysicalDevice(f"/physical_device:GPU:{i}", "GPU") for i in range(len(capabilities))
        ]
        details = {
            gpu.name: {"device_name": f"GPU of {major}.{minor}", "compute_capability": (major, minor)}
            for gpu, (major, minor) in zip(gpus, capabilities, strict=True)
        }
        self.visible, self.growing = [gpu.name for gpu in gpus], dict.fromkeys(details, False)
        listed = tf.config.list_physical_devices

        def list_devices(kind: str | None = None) -> list[tf.config.PhysicalDevice]:
            return gpus if kind == "GPU" else listed(kind)

        def set_visible(devices: list[tf.config.PhysicalDevice], kind: str) -> None:
            assert kind == "GPU"
            self.visible = [device.name for device in devices]

        monkeypatch.setattr(tf.config, "list_physical_devices", list_devices)
        monkeypatch.setattr(tf.config, "set_visible_devices", set_visible)
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details[gpu.name])
        monkeypatch.setattr(
            tf.config.experimental,
            "set_memory_growth",
            lambda gpu, grows: self.growing.update({gpu.name: grows}),
        )
        self.short_products = True
        monkeypatch.setattr(
            tf.config.experimental, "enable_tensor_float_32_execution", self._set_short_products
        )

    def _set_short_products(self, enabled: bool) -> None:
        self.short_products = enabled


@pytest.mark.parametrize(
    ("devices", "used"), [("auto", 3), ("gpu:all", 3), ("gpu:2", 2), ("gpu:1", 1), ("cpu:1", 0)]
)
def test_every_visible_gpu_grows_its_memory_and_the_others_are_out_of_sight(
    monkeypatch: pytest.MonkeyPatch, devices: str, used: int
) -> None:
    gpus = Gpus(monkeypatch, (8, 0), (9, 0), (6, 0))
    chosen = choose(devices)
    assert (chosen.kind, chosen.count) == (("GPU", used) if used else ("CPU", 1))
    assert len(gpus.visible) == used
    assert gpus.short_products == (used == 0)
    assert set(gpus.growing.values()) == {used > 0}


@pytest.mark.parametrize("capability", [(12, 0), (10, 0), (9, 1)])
def test_a_gpu_that_is_too_new_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    Gpus(monkeypatch, (8, 0), capability)
    dotted = ".".join(map(str, capability))
    sentence = (
        f"GPU of {dotted} has compute capability {dotted}; TensorFlow {tf.__version__} supports up to 9.0"
    )
    with pytest.raises(ClusterError) as caught:
        choose("auto")
    assert str(caught.value) == f"{sentence}."
    assert caught.value.exit_code == 3
    assert describe()["GPUs seen by TensorFlow"] == f"GPU of 8.0 8.0; {sentence}"
    assert choose("gpu:1").names == ("GPU:0",)


def test_a_required_gpu_has_to_be_one_that_tensorflow_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpus(monkeypatch, (12, 0), (9, 0))
    require_gpu()
    assert num_gpus() == 1
    Gpus(monkeypatch, (12, 0), (10, 0))
    assert num_gpus() == 0
    assert describe()["cuDNN"] == "not used: no GPU that this TensorFlow can use"
    with pytest.raises(
        ClusterError, match=r"GPU of 12\.0 has compute .*; GPU of 10\.0 has compute .*"
    ) as caught:
        require_gpu()
    assert caught.value.exit_code == 3
    assert "--require-gpu" in caught.value.hint


@pytest.mark.parametrize("hidden", [None, ""])
def test_where_no_gpu_is_seen_it_is_said_what_hides_them(
    monkeypatch: pytest.MonkeyPatch, hidden: str | None
) -> None:
    Gpus(monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    with pytest.raises(ClusterError, match="sees no GPU that it can use: no GPU at all") as caught:
        require_gpu()
    assert ("CUDA_VISIBLE_DEVICES is ''" in str(caught.value)) == (hidden is not None)


def test_the_doctor_says_what_keeps_cudnn_away(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpus(monkeypatch, (9, 0))
    said = describe()["cuDNN"]
    for setting in ("model.dropout.recurrent", "model.unroll", "train.truncate"):
        assert setting in said


# Where nothing is to be changed any more, or nothing shall be.
LEFT = """
import tensorflow as tf
from components.training import strategy
from conf.schema import ModelSettings

BEFORE
strategy.use_cores(ModelSettings())
assert tf.config.threading.get_inter_op_parallelism_threads() == 0
"""
# In a process of its own, since TensorFlow of this one has begun.
THREADS = """
import gc, keras, tensorflow as tf
from components.errors import ClusterError
from components.training import strategy
from conf.schema import EncoderSettings, ModelSettings

threading = tf.config.threading
def counts():
    return threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads()

recurrent = ModelSettings()
encoded = ModelSettings(encoder=EncoderSettings(units=(8,)))
strategy.use_cores(encoded)
cores = counts()[1]
assert cores >= 1 and counts() == (cores, cores), counts()
strategy.limit_threads(4, recurrent)
assert counts() == (2, 4), counts()
strategy.limit_threads(1, recurrent)
assert counts() == (1, 1), counts()
strategy.limit_threads(2, recurrent)
assert counts() == (1, 2), counts()
strategy.use_cores(encoded)
assert counts() == (1, 2), "somebody had said on how many"
tf.constant(1.0) + 1.0
strategy.limit_threads(2, recurrent)
try:
    strategy.limit_threads(1, recurrent)
except ClusterError as error:
    print(error)

first = keras.layers.Dense(2).name
assert keras.layers.Dense(2).name != first
strategy.settle()
strategy.settle()
assert gc.get_freeze_count()
strategy.forget()
assert keras.layers.Dense(2).name == first
"""


def test_threads_are_shared_until_tensorflow_has_begun_and_what_is_forgotten_leaves_no_name(
    root: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", THREADS], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (
        0,
        "TensorFlow has begun, so it cannot be given 1 threads any more.\n",
    ), done.stderr


@pytest.mark.parametrize(
    "before", ["tf.constant(1.0) + 1.0", "import os; os.environ['TF_NUM_INTRAOP_THREADS'] = '1'"]
)
def test_threads_stay_as_they_are_where_tensorflow_has_begun_or_the_environment_says_how_many(
    root: Path, before: str
) -> None:
    code = LEFT.replace("BEFORE", before)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
