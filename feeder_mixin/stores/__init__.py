"""Homes of parameter records: one contract, several backends."""
