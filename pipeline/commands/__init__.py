"""The commands, by what they are for; every one is listed in pipeline/cli.py."""
