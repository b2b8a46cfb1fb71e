"""Recordings to samples: every form that callers have, every codec, and what damage leaves."""
