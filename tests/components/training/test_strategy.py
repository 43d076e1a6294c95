"""Devices from a setting."""

import pytest
import tensorflow as tf

from components.errors import ClusterError
from components.training.strategy import Devices, choose, describe, num_gpus_wanted, strategy


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


def test_the_doctor_hears_what_tensorflow_sees() -> None:
    assert set(describe()) == {"GPUs seen by TensorFlow", "cuDNN"}
