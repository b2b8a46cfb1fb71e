"""The engine without Ray: one encoder runner and one decoder replica.

A test decides when each of them runs.
"""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from antiphon.config.decoding_rules import DecodingRules, TimestampRules
from antiphon.config.options import EngineConfig, resolve
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.replica import DecoderReplica
from antiphon.decoder.runner import DecoderRunner
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.outputs import StepOutput
from antiphon.scheduler.request import Finished, Media, Request, RequestId


@contextmanager
def cold() -> Iterator[None]:
    """Runners that are made inside do not warm up."""
    with patch.object(DecoderRunner, "warm_up"), patch.object(EncoderRunner, "warm_up"):
        yield


def pages_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """On a GPU, which several processes of tests share, no engine takes all that is free."""
    is_said = options.keys() & {"num_kv_pages", "kv_cache_memory_gib"}
    return {"kv_cache_memory_gib": 1} if options.get("device") == "cuda" and not is_said else {}


class PlainEngine:
    """`warm`: its runners have gone through every rule once, as those of workers and all on a GPU.
    That takes longer than most tests' requests."""

    def __init__(
        self,
        folder: Path,
        timestamps: TimestampRules | None = None,
        *,
        warm: bool = False,
        **options: Any,
    ) -> None:
        config = resolve(str(folder), {"device": "cpu", **pages_of(options), **options})
        self.model = ModelConfig.load(config.model)
        is_warm = warm or config.model.device != "cpu"
        self.unencoded: list[Media] = []  # asked for, and not begun
        self.delay_encodes = False
        with nullcontext() if is_warm else cold():
            self.encoder = self._make_encoder(config)
            self.replica = self._make_replica(config, timestamps)
        self.finished: dict[int, Finished] = {}  # by the request's number
        self.deltas: list[tuple[int, int]] = []
        self._ids = itertools.count()

    def _make_encoder(self, config: EngineConfig) -> EncoderRunner | None:
        return None if self.model.encoder is None else EncoderRunner(self.model, config)

    def _make_replica(
        self, config: EngineConfig, timestamps: TimestampRules | None
    ) -> DecoderReplica:
        return DecoderReplica(self.model, config, self._ask, self._withdraw, timestamps)

    def _ask(self, jobs: list[tuple[Media, int]]) -> None:
        self.unencoded += [media for media, _ in jobs]

    def _withdraw(self, withdrawals: list[tuple[str, int]]) -> None:
        keys = {key for key, _ in withdrawals} & {media.key for media in self.unencoded}
        self.unencoded = [media for media in self.unencoded if media.key not in keys]
        self.replica.scheduler.withdrawn(sorted(keys))

    def run_encoders(self) -> None:
        """Does all encoder work that was asked for, as one packed batch."""
        jobs, self.unencoded = self.unencoded, []
        if jobs:
            assert self.encoder is not None
            encoded = self.encoder.encode([media.payload for media in jobs])
            self.replica.receive_hidden(
                HiddenStates(
                    tuple(media.key for media in jobs), tuple(encoded.lengths), encoded.hidden
                )
            )

    def request(
        self,
        payload: np.ndarray | None,
        prompt: list[int],
        max_tokens: int,
        rules: DecodingRules | None = None,
        **fields: Any,
    ) -> Request:
        """`payload`: of the input that the decoder attends to; None for a model without."""
        params = fields.pop("params", SamplingParams(logprobs=0))
        return Request(
            RequestId("plain", next(self._ids)),
            np.array(prompt, np.int64),
            () if payload is None else (self._media(payload),),
            params,
            rules or DecodingRules(),
            max_tokens,
            fields.pop("seed", 0),
            **fields,
        )

    def _media(self, payload: np.ndarray) -> Media:
        audio = payload.dtype == np.float32
        return Media(
            payload.tobytes().hex()[:64] + str(len(payload)) + str(hash(payload.tobytes())),
            "audio" if audio else "text",
            self.model.max_encoder_len if audio else len(payload),
            payload,
        )

    def submit(self, request: Request) -> int:
        self.replica.scheduler.add(request)
        return request.id.number

    def step(self) -> None:
        for output in self.replica.step():
            self._take(output)
        if not self.delay_encodes:
            self.run_encoders()

    def _take(self, output: StepOutput) -> None:
        self.deltas += zip(output.delta_numbers, output.delta_tokens, strict=True)
        for end in output.finished:
            assert end.number not in self.finished, "a request ended twice"
            self.finished[end.number] = end

    def run(self, max_steps: int = 100_000) -> dict[int, Finished]:
        for _ in range(max_steps):
            self.step()
            if self.replica.idle and not self.unencoded and not self.replica.scheduler.requests:
                return self.finished
        raise AssertionError(f"not done after {max_steps} steps: {self.replica.scheduler.requests}")
