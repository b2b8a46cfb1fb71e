"""Checkpoint families: what a checkpoint's config.json says of its encoder and its decoder."""
