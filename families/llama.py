"""Llama 1 to 3 (Touvron et al. 2023), and models that copy its structure."""

from antiphon.families.llama_like import llama_like

FAMILY = llama_like("llama", "LlamaForCausalLM")
