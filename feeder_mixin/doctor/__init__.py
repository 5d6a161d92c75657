"""``feeder doctor``: checks of one feeder's config, store, records, candles and running bot."""
