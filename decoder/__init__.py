"""Decoders: hidden states in, tokens out, from paged self and cross KV. Knows nothing of Ray or of text."""
