"""What users write around a Keras model for MLflow: a data frame, padded to its longest row, is answered."""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

FILL = -1.0  # not 0: rows of letters have steps of nothing but zeros, which Masking would drop


class Padded(PythonModel):
    """A Keras model that labels every step, with its labels and, for tokens, its vocabulary."""

    def __init__(self, column: str, labels: list[str], words: list[str] | None, batch: int) -> None:
        self.column, self.labels, self.batch = column, labels, batch
        self.known = None if words is None else {word: 2 + at for at, word in enumerate(words)}

    def load_context(self, context: Any) -> None:
        """Load the network."""
        import keras

        self.network = keras.models.load_model(context.artifacts["network"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Labels and probabilities of each row's steps."""
        rows = model_input[self.column].tolist()
        lengths = [len(row) for row in rows]
        if self.known is None:
            x = np.full((len(rows), max(lengths), len(rows[0][0])), FILL, np.float32)
            for at, row in enumerate(rows):
                x[at, : len(row)] = np.stack(row)
        else:
            x = np.zeros((len(rows), max(lengths)), np.int32)
            for at, row in enumerate(rows):
                x[at, : len(row)] = [self.known.get(token, 1) for token in row]
        said = self.network.predict(x, batch_size=self.batch, verbose=0)
        best, probability = said.argmax(axis=-1), said.max(axis=-1)
        return pd.DataFrame(
            {
                "id": model_input["id"],
                "labels": [
                    [self.labels[label] for label in best[at, :length]] for at, length in enumerate(lengths)
                ],
                "probabilities": [probability[at, :length].tolist() for at, length in enumerate(lengths)],
            }
        )


def network(features: int, words: list[str] | None, units: int, embedding: int, classes: int) -> Any:
    """The Keras model: a mask, perhaps an embedding, a GRU in both directions, a label for each step."""
    import keras

    layers = keras.layers
    if words is None:
        first = [keras.Input((None, features)), layers.Masking(FILL)]
    else:
        first = [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(2 + len(words), embedding, mask_zero=True),
        ]
    gru = layers.Bidirectional(layers.GRU(units, return_sequences=True))
    return keras.Sequential([*first, gru, layers.Dense(classes, activation="softmax")])
