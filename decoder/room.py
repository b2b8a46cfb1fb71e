"""How many pages of keys and values a decoder's machine has room for. Known before any weight is read."""

import torch

from antiphon.config.arithmetic import ceil_div
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import EngineConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.kernels.formats import FLOAT8
from antiphon.kv.pool import KVPool
from antiphon.runtime.device import Target

GIB = 1 << 30
CPU_CACHE_GIB, FREE_GPU_SHARE = 4.0, 0.85


def num_pages(model: ModelConfig, config: EngineConfig, target: Target) -> int:
    """As asked; else what max_num_seqs full sequences need twice over (so that content stays cached), within memory.

    Raises ConfigurationError where the memory doesn't hold one full sequence.
    """
    decoder, half = config.decoder, model.decoder
    if decoder.num_kv_pages is not None:
        return decoder.num_kv_pages
    dtype = FLOAT8 if decoder.kv_cache_dtype == "fp8" else target.dtype
    page_bytes = KVPool.bytes_per_page(
        half.num_layers, decoder.kv_page_size, half.num_heads, half.head_dim, dtype
    )
    per_sequence = sum(
        ceil_div(length, decoder.kv_page_size)
        for length in (model.max_decoder_len, model.max_encoder_len)
    )
    budget = _budget(config, target.device)
    pages = min(budget // page_bytes, 2 * config.scheduler.max_num_seqs * per_sequence)
    if pages < per_sequence:
        raise ConfigurationError(
            f"{budget / GIB:.2f} GiB of KV cache hold {budget // page_bytes} pages of {page_bytes} bytes; one full sequence "
            f"needs {per_sequence}: raise kv_cache_memory_gib, or lower max_model_len or max_encoder_len"
        )
    return pages


def check_room(model: ModelConfig, config: EngineConfig) -> None:
    """Raises ConfigurationError where not one full sequence can fit this machine, before tables are made for its length and weights
    are read. What these take of a GPU is not yet taken: `num_pages` looks again."""
    num_pages(model, config, Target.resolve(config.model, model.raw, model.family))


def _budget(config: EngineConfig, device: torch.device) -> int:
    """Bytes for keys and values."""
    if config.decoder.kv_cache_memory_gib is not None:
        return int(config.decoder.kv_cache_memory_gib * GIB)
    if device.type == "cuda":
        return int(_free_gpu_memory(device) * FREE_GPU_SHARE)
    return int(CPU_CACHE_GIB * GIB)


def _free_gpu_memory(device: torch.device) -> int:
    """Bytes that this process may still take: of a GPU that it shares, no more than its share, whatever is free there now."""
    free, total = torch.cuda.mem_get_info(device)
    share = int(torch.cuda.get_per_process_memory_fraction() * total)
    return min(free, share - torch.cuda.memory_reserved(device))
