"""The pipeline: commands, stages and the machinery around them (Ray, MLflow, Click, rich)."""
