"""How a served model comes about: fitted beside the bot, and walk-forward in a backtest."""
