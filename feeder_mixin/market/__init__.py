"""Candles, features and labels: one code for tuner and bot."""
