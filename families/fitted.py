"""An engine's configuration as one checkpoint can have it."""

from dataclasses import replace

from antiphon.config.arithmetic import ceil_div
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import EngineConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.halves import Half


def fitted(model: ModelConfig, config: EngineConfig) -> EngineConfig:
    """`config` for this checkpoint: no workers of a half that it does not have, and for each stage
    of the decoder the number of its layers.

    Raises ConfigurationError for an option that this checkpoint cannot have.
    """
    if config.scheduler.enable_prefix_caching and model.decoder.cross_attention:
        raise ConfigurationError(
            f"enable_prefix_caching=True: keys and values in the decoder of {model.architecture}"
            " depend on an encoder's states: leave it out (equal inputs are encoded once)"
        )
    if model.encoder is None:
        config = replace(config, encoder=replace(config.encoder, replicas=0))
    if model.decoder_half is not None:
        return _with_stages(model, config)
    if config.workers.placement == "colocated":
        raise ConfigurationError(
            f"placement='colocated': {model.architecture} has no decoder: leave the option out"
        )
    return replace(config, decoder=replace(config.decoder, replicas=0))


def _with_stages(model: ModelConfig, config: EngineConfig) -> EngineConfig:
    half, options = model.decoder, config.decoder
    stages = options.pipeline_parallel_size
    if stages == 1 or stages > half.num_layers or options.pipeline_layers is not None:
        return config
    sequences = ceil_div(config.scheduler.max_num_seqs, stages)  # a stage computes one lane of them
    head = half.vocab_size * half.hidden_size / _values_of_a_layer(half, model, sequences)
    counts = balanced_layers(half.num_layers, stages, head)
    return replace(config, decoder=replace(options, pipeline_layers=",".join(map(str, counts))))


def _values_of_a_layer(half: Half, model: ModelConfig, sequences: int) -> int:
    """How many values a full step reads for one layer of the decoder: that is what it costs. Keys
    and values of the sequences' own tokens are left out: nobody knows beforehand how many."""
    queries = 2 * half.num_heads * half.head_dim  # with the output's matrix
    keys_and_values = 2 * half.num_kv_heads * half.head_dim
    attention = (queries + keys_and_values) * half.hidden_size
    weights = half.feed_forward_matrices * half.ffn_size * half.hidden_size + attention
    if not half.cross_attention:
        return weights
    return weights + attention + sequences * model.max_cross_len * keys_and_values


def balanced_layers(num_layers: int, stages: int, head: float) -> tuple[int, ...]:
    """Layers of each stage so that the slowest one is as fast as can be. `head`: what the last
    stage does besides, in layers. Where they do not divide, the first stages have one more."""

    def slowest(last: int) -> float:
        return max(ceil_div(num_layers - last, stages - 1), last + head)

    last = min(range(1, num_layers - stages + 2), key=slowest)
    small, more = divmod(num_layers - last, stages - 1)
    return (*(small + (number < more) for number in range(stages - 1)), last)
