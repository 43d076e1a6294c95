"""The work itself, on TensorFlow, pyarrow and NumPy: runs in a test or a notebook with no cluster."""
