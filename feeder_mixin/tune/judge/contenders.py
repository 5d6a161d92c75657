"""Who is compared: one spelling each, in code, journal, ``--json`` and report."""

from __future__ import annotations

from typing import Final, Literal

ATR_RULE: Final = "ATR rule"
DEFAULTS: Final = "defaults"
RUNNING: Final = "running"
TUNED: Final = "tuned"

Contender = Literal["defaults", "running", "tuned"]
"""Whose parameters are fitted; the ATR rule, which is compared with them, has none."""
