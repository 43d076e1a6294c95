"""What the stages stand on: the cluster, the tracker, the run folder, signals."""
