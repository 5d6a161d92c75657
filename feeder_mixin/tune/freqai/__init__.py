"""A FreqAI strategy's own features, targets and model, as a run tunes them."""
