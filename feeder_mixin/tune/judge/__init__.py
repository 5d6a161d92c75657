"""What a parameter set is worth, and whether it may replace the running record."""
