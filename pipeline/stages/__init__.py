"""The stages, one verb each; they meet only through the run folder."""
