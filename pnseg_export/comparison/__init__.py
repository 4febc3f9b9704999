"""Parity: the same model in PyTorch, in every precision and on every engine at hand, compared on nuclei."""
