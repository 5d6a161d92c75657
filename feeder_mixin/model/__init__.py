"""The quantile model and how it is judged."""
