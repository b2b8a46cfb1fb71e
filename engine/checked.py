"""A model and its options, checked as far as they can be before any worker starts."""

from collections.abc import Mapping
from typing import Any

from antiphon.attention.specs import check_cross_attention
from antiphon.config.options import EngineConfig, resolve
from antiphon.decoder.room import check_num_pages, check_room_of_ranks
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.draft import with_draft
from antiphon.families.fitted import fitted
from antiphon.layers.shard import check_parallel


def checked(model: str, options: Mapping[str, Any]) -> tuple[EngineConfig, ModelConfig]:
    """Reads the description of `model`, none of its weights. Raises ConfigurationError for what
    cannot run, CheckpointError or UnsupportedModelError for a checkpoint that cannot be read."""
    config = resolve(model, options)
    description = ModelConfig.load(config.model)
    config = fitted(description, config)
    description = with_draft(description, config)
    layout = config.layout(config.workers.placement == "colocated")
    for half in filter(None, (description.encoder, description.decoder_half)):
        check_parallel(half, layout[half.side])
    if description.decoder_half is None:
        return config, description
    check_cross_attention(description.decoder_half, config.decoder)
    check_num_pages(description, config)
    if config.model.device == "cpu":  # only workers know the free memory of other devices
        check_room_of_ranks(description, config)
    return config, description
