"""The owner's command line: the same options as ``feeder optimize``."""

from __future__ import annotations

import sys

from optuna_feeder_optimizer import optimize

if __name__ == "__main__":  # workers import this file again
    sys.exit(optimize(sys.argv[1:]))
