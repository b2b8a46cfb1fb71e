"""Encoders: audio or text in, hidden states out. Knows nothing of decoding, pages or Ray."""
