"""Decoders: hidden states in, tokens out, from paged self and cross KV. No Ray, no text."""
