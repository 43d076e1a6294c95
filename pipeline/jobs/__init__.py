"""The same command elsewhere, or again later."""
