"""FreqAI bots: a strategy's own features and targets, with parameters from the store."""
