"""Decoders: hidden states in, tokens out, by paged self and cross KV. No Ray."""
