"""One run over a feeder: candles, tasks in worker processes, journal, lock."""
