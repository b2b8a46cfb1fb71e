"""Engine options: frozen dataclasses, composed, resolved from flat keyword arguments.

`OPTIONS` is the one table of them: `resolve`, the flags of the command line and the
tables of docs/options.md are made from it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from antiphon.config import foreign_options
from antiphon.config.errors import ConfigurationError
from antiphon.config.option_table import option, sections, table
from antiphon.config.option_values import checked, model_name
from antiphon.config.parallel import Parallel, TensorMode, layer_counts
from antiphon.config.speculation import SpeculationOptions, check_speculation
from antiphon.config.worker_options import WorkerOptions

Resizing = Literal["auto", "host", "device"]


@dataclass(frozen=True)
class ModelOptions:
    """Which checkpoint, and how its weights are held."""

    model: str = option("", "hub id, folder, or the size of a Whisper checkpoint")
    revision: str | None = option(None, "branch, tag or commit of a hub checkpoint")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "of weights and activations; auto: float32 on a CPU, the checkpoint's on a GPU"
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: a GPU where there is one")
    quantization: Literal["none", "fp8", "int8", "dequantize"] = option(
        "none", "of linear layers: fp8, int8; dequantize: multiplies a checkpoint's own out"
    )
    load_format: Literal["auto", "dummy"] = option(
        "auto", "dummy: random weights of the configuration's shapes, for measuring"
    )
    generation_config: Literal["auto", "none"] = option(
        "auto",
        "none: what the checkpoint's generation config says of beams, sampling, penalties, lengths "
        "and a forced first or last token is no default; what a family has of its own still holds",
    )
    enforce_eager: bool = option(False, "on a GPU: no CUDA graphs")
    max_model_len: int | None = option(
        None, "decoder positions; by default the model's own, 512 where it has no limit"
    )
    limit_images_per_prompt: int | None = option(
        None, "more are refused, of videos too; by default 64"
    )
    image_resizing: Resizing = option(
        "auto",
        "where images are resized and normed: host: by the checkpoint's image processor; device: "
        "on the encoder's, to the same gray levels; auto: there if this process sees a GPU and "
        "knows the rules of the processor",
    )
    allowed_media_domains: str | None = option(
        None,
        "hosts that images behind addresses are fetched from, as in a.example,b.example; *: any "
        "host; by default none",
    )
    allow_private_media: bool = option(False, "their addresses may be private or of this machine")
    max_encoder_len: int | None = option(
        None, "encoder tokens; by default the model's own, 1024 where it has no limit"
    )


@dataclass(frozen=True)
class HalfOptions:
    """What the encoder and the decoder have in common."""

    side: ClassVar[str]

    attention_backend: str = option(
        "auto", "`antiphon info` lists those that are usable here", prefixed=True
    )
    replicas: int = option(1, "workers of this half", prefixed=True)
    tensor_parallel_size: int = option(
        1, "ranks, each a process with a GPU of its own, that share every layer", prefixed=True
    )
    pipeline_parallel_size: int = option(
        1, "stages, each of as many ranks, that share the layers among them", prefixed=True
    )
    pipeline_layers: str | None = option(
        None,
        "layers of each stage, as in 10,11,11; by default a decoder's by their cost",
        prefixed=True,
    )
    min_replicas: int | None = option(
        None, "the pool shrinks to so many when idle; by default never", prefixed=True
    )
    max_replicas: int | None = option(
        None, "the pool grows to so many when requests wait; by default never", prefixed=True
    )

    @property
    def parallel(self) -> Parallel:
        """The ranks of each replica. Raises ConfigurationError if `pipeline_layers` is
        not a number for each stage."""
        stages = self.pipeline_parallel_size
        layers = layer_counts(f"{self.side}_pipeline_layers", self.pipeline_layers, stages)
        return Parallel(self.tensor_parallel_size, stages, layers=layers)

    @property
    def bounds(self) -> tuple[int, int]:
        """Fewest and most replicas."""
        least = self.replicas if self.min_replicas is None else self.min_replicas
        return least, self.replicas if self.max_replicas is None else self.max_replicas


@dataclass(frozen=True)
class EncoderOptions(HalfOptions):
    side = "encoder"

    window: Literal["full", "zeros", "auto"] = option(
        "full",
        "what follows a clip in Whisper's window: full: silence, as in transformers; zeros: in its "
        "features, as in openai/whisper; auto: only as many positions as the clip fills",
        prefixed=True,
    )
    max_encoder_batch_tokens: int = option(16_384, "tokens of one packed encoder forward")
    tp_mode: Literal["auto", "weights", "data"] = option(
        "auto",
        "what the ranks of a stage share: each layer's weights, or (data) the inputs of a batch; "
        "auto: weights, and beside a decoder on the same GPUs data",
        prefixed=True,
    )

    @property
    def parallel(self) -> Parallel:
        """The ranks of each replica that has processes of its own."""
        mode: TensorMode = "data" if self.tp_mode == "data" else "weights"
        return replace(super().parallel, mode=mode)


@dataclass(frozen=True)
class DecoderOptions(HalfOptions):
    side = "decoder"

    kv_cache_dtype: Literal["auto", "fp8"] = option(
        "auto", "fp8: keys and values in float8, half the memory and traffic"
    )
    kv_page_size: int = option(16, "tokens in a page of the KV cache")
    num_kv_pages: int | None = option(
        None, "pages of the KV cache; by default as many as kv_cache_memory_gib holds"
    )
    kv_cache_memory_gib: float | None = option(
        None, "by default 4 on a CPU, 85 % of what is free on a GPU"
    )
    cross_attention: Literal["auto", "latent", "kv"] = option(
        "auto",
        "latent: layers attend to the encoder's hidden states themselves, kept once for all of "
        "them; kv: to keys and values that each layer makes of them; auto: kv, which is faster for "
        "few sequences",
    )
    enable_word_timestamps: bool = option(True, "of Whisper: keep what they are made of")

    @property
    def attends_to_states(self) -> bool:
        """Whether cross-attention reads hidden states. `auto` does not: reading them is
        faster only for many sequences at a time."""
        return self.cross_attention == "latent"


@dataclass(frozen=True)
class SchedulerOptions:
    """Limits of each decoder replica's scheduler."""

    max_num_seqs: int = option(64, "sequences that decode together")
    max_num_batched_tokens: int = option(4096, "tokens of one decoder step")
    num_scheduler_steps: int = option(1, "decoder steps launched ahead of results")
    enable_prefix_caching: bool | None = option(
        None,
        "prompts that begin alike share what is computed of it; by default in models whose decoder "
        "attends to its own tokens alone, the only ones that can",
    )
    max_waiting_requests: int = option(100_000, "more are refused")
    priority_aging_seconds: float = option(
        10.0, "a priority that waits rises by one number after so long, so that it gets on at last"
    )
    encode_timeout: float = option(
        600.0, "seconds without an answer from its encoder until an input fails"
    )
    encode_ahead_tokens: int | None = option(
        None,
        "room for hidden states, in tokens: asked for ahead, or kept for repeated inputs; "
        "by default max_num_seqs full inputs",
    )


@dataclass(frozen=True)
class EngineConfig:
    model: ModelOptions = field(default_factory=ModelOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    scheduler: SchedulerOptions = field(default_factory=SchedulerOptions)
    speculation: SpeculationOptions = field(default_factory=SpeculationOptions)
    workers: WorkerOptions = field(default_factory=WorkerOptions)

    @property
    def halves(self) -> dict[str, HalfOptions]:
        """Those that the model has, by name."""
        halves = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: half for name, half in halves.items() if half.replicas}

    def layout(self, colocated: bool) -> dict[str, Parallel]:
        """The ranks of each replica of each half. Colocated, an encoder has those of
        the decoder beside it."""
        layout = {name: half.parallel for name, half in self.halves.items()}
        if colocated and "encoder" in layout:
            layout["encoder"] = Parallel(self.decoder.parallel.num_ranks, mode="data")
        return layout


OPTIONS = table(EngineConfig)  # by the name that users type; "model" is an argument of its own
FROM_ENVIRONMENT = ("encoder_attention_backend", "decoder_attention_backend")


def resolve(
    model: str | os.PathLike[str],
    options: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
) -> EngineConfig:
    """Makes an EngineConfig of flat options. None stands for the default; other
    engines' names of an option are taken.

    Environment variables ANTIPHON_<OPTION> give defaults for the attention backends.
    Raises ConfigurationError for an unknown name (with the nearest valid one), for a
    value of the wrong type or out of range, and for options that exclude each other.
    """
    values = {
        name: environment[variable]
        for name in FROM_ENVIRONMENT
        if (variable := f"ANTIPHON_{name.upper()}") in environment
    }
    values |= foreign_options.by_own_names(options, OPTIONS.keys() - {"model"})
    classes = sections(EngineConfig)
    parts: dict[str, dict[str, Any]] = {section: {} for section in classes}
    parts["model"]["model"] = model_name(model)
    for name, value in values.items():
        if value is not None:
            row = OPTIONS[name]
            parts[row.section][row.field] = checked(name, row.annotation, value, row.least)
    config = EngineConfig(**{name: classes[name](**part) for name, part in parts.items()})
    for half in config.halves.values():
        _check_half(half)
    check_speculation(config.speculation, config.decoder.parallel.pipeline)
    if not config.workers.ray:
        check_one_process(config)
    return config


def _check_half(options: HalfOptions) -> None:
    """Raises ConfigurationError for options of one half that exclude each other."""
    (least, most), half = options.bounds, options.side
    if not least <= options.replicas <= most:
        raise ConfigurationError(
            f"{half}_min_replicas={least}, {half}_replicas={options.replicas} and "
            f"{half}_max_replicas={most} must not fall"
        )
    layer_counts(f"{half}_pipeline_layers", options.pipeline_layers, options.pipeline_parallel_size)


def check_one_process(config: EngineConfig) -> None:
    """Raises ConfigurationError for what an engine without Ray cannot do."""
    for half, options in config.halves.items():
        for name, count in (("replicas", options.replicas), ("max_replicas", options.bounds[1])):
            if count > 1:
                raise ConfigurationError(
                    f"{half}_{name}={count} needs a process for each: leave out ray=False"
                )
        if (ranks := options.parallel.num_ranks) > 1:
            raise ConfigurationError(
                f"the {half}'s {options.parallel} need a process each "
                f"({half}_tensor_parallel_size={options.tensor_parallel_size}, "
                f"{half}_pipeline_parallel_size={options.pipeline_parallel_size}): leave out "
                f"ray=False, or give 1 for both instead of {ranks} ranks"
            )
    if config.workers.placement == "disaggregated":
        raise ConfigurationError(
            "placement='disaggregated' needs a process for each half: leave out ray=False"
        )
    if config.workers.name is not None:
        raise ConfigurationError(
            f"ray=False: no other process can attach to name={config.workers.name!r}; leave out one"
        )
    if config.workers.address is not None:
        raise ConfigurationError(
            f"ray=False joins no cluster: leave out it or address={config.workers.address!r}"
        )
