"""How sure a model is, made weaker or stronger after training: temperature scaling.

    softmax(logits / T) = exp(log p / T), made to sum to 1     T > 1 is less sure, T < 1 surer

Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
"""

import numpy as np


def scaled(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """The log probabilities at a temperature, (..., C) float32; at 1 those given, not copied.

    Within one distribution the order of the classes stays.

    Args:
        log_probabilities: (..., C) float32, each distribution of them sums to 1 as probabilities.
        temperature: above 0.
    """
    if temperature == 1.0:
        return log_probabilities
    values = log_probabilities / np.float32(temperature)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values
