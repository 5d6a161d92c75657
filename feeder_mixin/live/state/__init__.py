"""The files of a bot: written whole, read back checked, and what they say to others."""
