"""How good a model is: answers on held-out rows, scores with intervals, baselines, the verdict."""
