"""Attention backends for both halves, and the one function that selects them."""
