"""The search for a pair's parameters: folds, study, journal, workers."""
