"""Tests of feeder_mixin."""
