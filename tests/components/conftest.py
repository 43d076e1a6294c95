"""Three logical CPU devices for the tests of one, two and three replicas."""

import sys

import pytest

NUM_DEVICES = 3


@pytest.fixture(scope="session", autouse=True)
def logical_devices() -> None:
    """Only possible before TensorFlow's first operation; nothing to do where no test imported it."""
    if "tensorflow" not in sys.modules:
        return
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) < NUM_DEVICES:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * NUM_DEVICES
        )
