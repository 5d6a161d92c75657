"""Faults at every moment: what a user sees then, and that nothing is lost."""
