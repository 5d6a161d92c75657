"""Slow, obvious twins: loops and counting, to check fast code against."""
