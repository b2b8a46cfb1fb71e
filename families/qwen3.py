"""Qwen3 (Yang et al. 2025): Llama with a norm of each head of queries and keys, and heads of any
size."""

from antiphon.families.llama_like import llama_like

FAMILY = llama_like("qwen3", "Qwen3ForCausalLM", head_norms=True)
