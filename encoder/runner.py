"""Runs an encoder: a batch of token ids or clips in, packed hidden states out. On a GPU it queues the work and does not wait."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from antiphon.attention.interface import FullBatch
from antiphon.attention.selection import capturable, select_full
from antiphon.attention.specs import encoder_spec
from antiphon.config.options import EngineConfig
from antiphon.encoder.frontends.log_mel import LogMel
from antiphon.encoder.graphs import MOST_TOKENS, TextGraphs, WindowGraphs
from antiphon.encoder.models import build
from antiphon.families.checkpoint import ModelConfig
from antiphon.layers.quantise import check, quantise_encoder
from antiphon.layers.weights import Checkpoint, check_unused, fill_randomly, load_weights
from antiphon.runtime.device import Target, to_device, together_to_device

WARM_TOKENS = 16  # of an input that no request waits for
MARGIN = 2  # tokens of silence behind a short window, so that convolutions see at its end what they see in a full one


@dataclass(frozen=True)
class Encoded:
    """`hidden` [sum of lengths, hidden] of a batch, packed in the order of its inputs."""

    lengths: list[int]
    hidden: torch.Tensor


class EncoderRunner:
    """Holds the encoder half of a checkpoint. Inputs are token ids (text) or samples at the model's rate (audio)."""

    def __init__(self, model: ModelConfig, config: EngineConfig) -> None:
        half, self.max_len = model.encoder, model.max_encoder_len
        self.target = Target.resolve(config.model, model.raw, model.family)
        check(config.model.quantization, self.target)
        self.attention = select_full(
            "encoder", config.encoder.encoder_attention_backend, encoder_spec(half, self.target)
        )
        self.model = self.target.build(lambda: build(half))
        if config.model.load_format == "dummy":
            fill_randomly(self.model)
        else:
            checkpoint = Checkpoint(model.path)
            load_weights(self.model, checkpoint, half.checkpoint_names)
            check_unused(checkpoint, "encoder", model.family.ignored)
        quantise_encoder(config.model.quantization, self.model.layers, half.pre_norm)
        self.vocab_size = half.vocab_size
        self.padding_id = half.padding_id
        self.shortens = config.encoder.encoder_window == "auto"
        self.audio = model.audio
        if self.audio is not None:
            self.log_mel = LogMel(self.audio).to(self.target.device)
        self._copies = (
            torch.cuda.Stream(self.target.device) if self.target.device.type == "cuda" else None
        )
        self.window_graphs: WindowGraphs | None = None
        self.text_graphs: TextGraphs | None = None
        if not config.model.enforce_eager:
            self.window_graphs = self._capture_windows(config, half.hidden_size)
            self.text_graphs = self._capture_texts(config, half.hidden_size, model.max_encoder_len)
        self.warm_up()

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Runs small inputs, so that what is loaded, compiled or allocated at first use is so before the first request."""
        if self.audio is None:
            for lengths in ((WARM_TOKENS,), (1, WARM_TOKENS)):  # alike, and not
                self.encode([np.zeros(min(length, self.max_len), np.int32) for length in lengths])
        elif self.target.device.type == "cuda":
            self.encode([np.zeros(self.audio.hop, np.float32)])
        else:  # a short window: a full one of a large model takes a second
            tokens = min(WARM_TOKENS, self.audio.tokens)
            samples = torch.zeros(1, 2 * tokens * self.audio.hop)
            plan = self.attention.plan(FullBatch.of(np.array([tokens]), self.target.device))
            self.model(self.log_mel(samples).to(self.target.dtype), self.attention, plan)
            if self.shortens:
                self._encode_short([samples[0].numpy()], np.array([tokens]))

    @torch.inference_mode()
    def encode(self, inputs: Sequence[np.ndarray]) -> Encoded:
        """One packed forward of all `inputs`: int token ids [tokens] or float32 samples [samples], at most one window."""
        return self._encode_audio(inputs) if self.audio is not None else self._encode_text(inputs)

    def _encode_text(self, inputs: Sequence[np.ndarray]) -> Encoded:
        lengths = np.array([len(ids) for ids in inputs])
        for (
            text
        ) in inputs:  # here, so that it fails alone: on a GPU, looking it up would end the process
            if text.min() < 0 or text.max() >= self.vocab_size:
                raise ValueError(f"token ids must be within 0 and {self.vocab_size - 1}")
        packed, positions = (
            np.concatenate(inputs).astype(np.int64),
            np.concatenate([self._positions(text) for text in inputs]),
        )
        hidden = (
            self.text_graphs.replay(packed, positions, lengths)
            if self.text_graphs is not None
            else None
        )
        if hidden is None:
            plan = self.attention.plan(FullBatch.of(lengths, self.target.device))
            ids, at = together_to_device([packed, positions], self.target.device)
            hidden = self._run_text(ids, at, plan)
        return Encoded(lengths.tolist(), hidden)

    def _positions(self, text: np.ndarray) -> np.ndarray:
        """[tokens] from 0. A family may count its padding token out, which then has none of its own (see
        `TokenEmbedding`). Here no batch is ever padded: such a token stands in the text itself."""
        if self.padding_id is None:
            return np.arange(len(text))
        return np.maximum(np.cumsum(text != self.padding_id) - 1, 0)

    def _run_text(self, ids: torch.Tensor, positions: torch.Tensor, plan: Any) -> torch.Tensor:
        hidden: torch.Tensor = self.model(ids, positions, self.attention, plan)
        return hidden

    def _encode_audio(self, inputs: Sequence[np.ndarray]) -> Encoded:
        assert self.audio is not None
        if self.shortens:
            lengths = np.array([self.audio.tokens_of(len(clip)) for clip in inputs])
            if (lengths < self.audio.tokens).any():
                return self._encode_short(inputs, lengths)
        samples = self._windows(inputs, self.audio.window)
        hidden = self.window_graphs.replay(samples) if self.window_graphs is not None else None
        if hidden is None:
            hidden = self._run_audio(samples, self._plan_windows(len(inputs)))
        return Encoded([len(hidden) // len(inputs)] * len(inputs), hidden)

    def _encode_short(self, inputs: Sequence[np.ndarray], lengths: np.ndarray) -> Encoded:
        """Each clip in a window of its own length: no attention to silence that only fills up the model's window."""
        assert self.audio is not None
        tokens = min(int(lengths.max()) + MARGIN, self.audio.tokens)
        samples = self._windows(inputs, 2 * (tokens + MARGIN) * self.audio.hop)
        features = self.log_mel(samples)[..., : 2 * tokens].to(self.target.dtype)
        rows = np.flatnonzero(np.arange(tokens)[None] < lengths[:, None])
        plan = self.attention.plan(FullBatch.of(lengths, self.target.device))
        return Encoded(
            lengths.tolist(),
            self.model(features, self.attention, plan, to_device(rows, self.target.device)),
        )

    def _windows(self, inputs: Sequence[np.ndarray], size: int) -> torch.Tensor:
        """[clips, size] float32 samples on the device, padded with silence; copied while the batch before is computed."""
        windows = torch.empty(len(inputs), size, pin_memory=self._copies is not None)
        for row, clip in zip(windows.numpy(), inputs, strict=True):
            row[: len(clip)] = clip
            row[len(clip) :] = 0.0
        if self._copies is None:
            return windows
        with torch.cuda.stream(self._copies):
            moved = windows.to(self.target.device, non_blocking=True)
        compute = torch.cuda.current_stream(self.target.device)
        compute.wait_stream(self._copies)
        moved.record_stream(compute)
        return moved

    def _plan_windows(self, count: int) -> Any:
        assert self.audio is not None
        return self.attention.plan(
            FullBatch.of(np.full(count, self.audio.tokens), self.target.device)
        )

    def _run_audio(self, samples: torch.Tensor, plan: Any) -> torch.Tensor:
        hidden: torch.Tensor = self.model(
            self.log_mel(samples).to(self.target.dtype), self.attention, plan
        )
        return hidden

    @torch.inference_mode()
    def _capture_windows(self, config: EngineConfig, width: int) -> WindowGraphs | None:
        """Graphs for every number of windows in a batch."""
        if self.audio is None or not capturable(self.attention, "same"):
            return None
        most = max(1, config.encoder.max_encoder_batch_tokens // self.audio.tokens)
        samples = torch.zeros(most, self.audio.window, device=self.target.device)
        hidden = torch.zeros(
            most, self.audio.tokens, width, dtype=self.target.dtype, device=self.target.device
        )
        return WindowGraphs(self._run_audio, self._plan_windows, samples, hidden, self.model)

    @torch.inference_mode()
    def _capture_texts(self, config: EngineConfig, width: int, max_len: int) -> TextGraphs | None:
        """Graphs for batches of any texts up to a number of tokens."""
        if self.audio is not None or not capturable(self.attention, "any"):
            return None
        most = min(config.encoder.max_encoder_batch_tokens, MOST_TOKENS)
        hidden = torch.zeros(most, width, dtype=self.target.dtype, device=self.target.device)
        return TextGraphs(self._run_text, self.attention.plan, hidden, max_len, self.model)
