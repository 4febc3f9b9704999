"""Measurements: what the exported networks cost, and how fast they are."""
