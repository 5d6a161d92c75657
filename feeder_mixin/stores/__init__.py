"""Parameter stores: one contract, several backends."""
