"""Whisper's prompt format: which of a checkpoint's tokens mean what."""
