"""The two networks, and their sizes as data."""
