"""Per-pair LightGBM safety models for freqtrade, tuned by Optuna, swapped in the running bot."""
