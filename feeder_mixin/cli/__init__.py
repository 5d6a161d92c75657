"""The `feeder` command."""
