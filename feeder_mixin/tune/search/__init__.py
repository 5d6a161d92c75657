"""The search for a pair's parameters: space, objective, study, finalists."""
