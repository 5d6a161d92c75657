"""Whatever a file, an answer or a config holds: our errors or none."""
