"""Whole recordings: windows become requests, and their outputs one transcription."""
