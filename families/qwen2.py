"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with a bias on queries, keys and values."""

from antiphon.families.llama_like import llama_like

FAMILY = llama_like("qwen2", "Qwen2ForCausalLM", qkv_bias=True)
