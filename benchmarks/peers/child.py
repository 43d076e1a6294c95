"""One contestant in a process of its own: it trains when it is told to, and says what that took.

    stdin   for SECONDS      epochs until they took so long; at least one
            until ACCURACY   epochs until the validation rows reach it, or MOST_EPOCHS
    stdout  one JSON object for each: steps, cells, seconds, wall, epochs, accuracy

Begins with `ready`, after the first epoch where there is no validation.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.cases import Case, Epoch, load

MOST_EPOCHS = 40


def answer(epochs: Iterator[Epoch], word: str, value: float) -> dict[str, float | None]:
    """Train as told."""
    steps, cells, seconds, wall, count = 0, 0, 0.0, 0.0, 0
    for epoch in epochs:
        steps, cells, count = steps + epoch.steps, cells + epoch.cells, count + 1
        seconds, wall = seconds + epoch.seconds, wall + epoch.wall
        if word == "for":
            done = seconds >= value
        else:
            done = count == MOST_EPOCHS or (epoch.accuracy is not None and epoch.accuracy >= value)
        if done:
            break
    return {
        "steps": steps,
        "cells": cells,
        "seconds": seconds,
        "wall": wall,
        "epochs": count,
        "accuracy": epoch.accuracy,
    }


def main() -> None:
    """Serve one contestant until stdin ends."""
    contestant, data, given = sys.argv[1:]
    module = importlib.import_module(f"benchmarks.peers.{contestant}")
    case = Case(**json.loads(given))
    epochs = module.epochs(*load(Path(data), case), case)
    if not case.validate:
        next(epochs)
    print(f"ready {module.VERSION}", flush=True)
    for line in sys.stdin:
        word, value = line.split()
        print(json.dumps(answer(epochs, word, float(value))), flush=True)


if __name__ == "__main__":
    main()
