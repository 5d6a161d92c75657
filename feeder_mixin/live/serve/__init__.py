"""What a candle reads: the snapshot in force, the forecast, its calibration."""
