"""The demo behind ``feeder demo``: its story, its bot, and a workplace that leaves nothing behind."""
