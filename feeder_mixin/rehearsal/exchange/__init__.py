"""The replay exchange: stored or generated candles, served as a live futures market on loopback."""
