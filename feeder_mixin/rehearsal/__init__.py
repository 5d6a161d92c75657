"""A dress rehearsal without a network: the replay exchange, and the demo that runs on it."""
