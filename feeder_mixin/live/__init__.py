"""The running bot: snapshot, loading, reload, models, and the files it leaves for operators."""
