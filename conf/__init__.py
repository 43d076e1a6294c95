"""The settings: their schema, how they are loaded, and the YAML files."""
