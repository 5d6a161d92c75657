"""Who is compared: one spelling each, in code, journal, ``--json`` and report."""

from __future__ import annotations

from typing import Final, Literal

ATR_RULE: Final = "ATR rule"
DEFAULTS: Final = "defaults"
CONFIG: Final = "config"
"""A FreqAI config's own ``model_training_parameters``: in the place of the defaults, and of the rule."""

RUNNING: Final = "running"
TUNED: Final = "tuned"

CALLED: Final = {
    RUNNING: "the running record",
    DEFAULTS: "the defaults",
    CONFIG: "the config's own values",
}
"""What sentences call them."""

Contender = Literal["defaults", "config", "running", "tuned"]
"""Whose parameters are fitted; the ATR rule, which is compared with them, has none."""
