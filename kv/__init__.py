"""The KV cache: accounting of pages (plain integers), their tensors, and the hand-over
of hidden states."""
