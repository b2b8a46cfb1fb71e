"""Eight-bit weights and activations: float8, int8, and the scales of a float8 KV cache."""
