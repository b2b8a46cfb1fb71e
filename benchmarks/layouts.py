"""Measures of layouts by name: ranks in processes, and engines over Ray, each once."""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from antiphon.benchmarks import layout_loads, rank_steps
from antiphon.benchmarks.layout_loads import Streams
from antiphon.benchmarks.machine import Machine
from antiphon.benchmarks.rank_processes import RankProcesses
from antiphon.benchmarks.serving import Load
from antiphon.benchmarks.shapes import PUBLISHED, write_checkpoint
from antiphon.config.parallel import Parallel
from antiphon.runtime.symmetric_memory import SUMMED_NORM_BYTES

Figures = dict[str, Any]
Options = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    whisper: dict[str, Any]
    t5: dict[str, Any]
    clips: int  # of each GPU, offline
    outputs: int  # tokens of a clip
    sequences: int  # of a decoder in throughput
    decodes: tuple[int, int]  # sequences of a step: many, and one
    texts: int  # sequences of T5's step
    text_tokens: int
    steps: int
    running: int  # streams while clips arrive
    clip_every: float  # seconds
    stream_tokens: int
    kv_gib: float

    @property
    def layers(self) -> dict[str, int]:
        return {
            "whisper": self.whisper["decoder_layers"],
            "t5": self.t5["num_decoder_layers"],
        }


FULL = Size(
    PUBLISHED["whisper-large-v3"], PUBLISHED["flan-t5-xl"], clips=512, outputs=64, sequences=256,
    decodes=(64, 1), texts=16, text_tokens=512, steps=100, running=32, clip_every=0.02,
    stream_tokens=300, kv_gib=24.0,
)  # fmt: skip
NARROW = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
}  # fmt: skip
TINY = Size(
    {**PUBLISHED["whisper-base"], **NARROW},
    {**PUBLISHED["flan-t5-base"], "d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4,
     "num_layers": 2, "num_decoder_layers": 2},
    clips=6, outputs=8, sequences=8, decodes=(4, 1), texts=4, text_tokens=32, steps=5, running=2,
    clip_every=1.0, stream_tokens=80, kv_gib=0.25,
)  # fmt: skip


class Bench:
    """Measures by name, each once. Ranks and engines do not hold GPUs at the same time."""

    def __init__(
        self, size: Size, device: Literal["cpu", "cuda"], gpus: int, limit: float, folder: Path
    ) -> None:
        self.size, self.device, self.gpus, self.limit = size, device, gpus, limit
        self.trace: Path | None = None
        self.known: dict[str, Figures] = {}
        self.profiles: dict[str, Any] = {}
        self._failed: dict[str, Exception] = {}
        self._together = 0  # ranks that have met in these processes
        self._ranks = RankProcesses(gpus, device)
        self._engines = RankProcesses(1, "any")
        self._folder = folder
        for name, config in (("whisper", size.whisper), ("t5", size.t5)):
            (folder / name).mkdir()
            write_checkpoint(config, folder / name)

    def close(self) -> None:
        self._ranks.close()
        self._engines.close()

    # ------------------------------------------------------------------ measures

    def card(self) -> Machine:
        """The limits of one device."""
        return Machine(**self._once("card", Parallel(), rank_steps.machine, self.device))

    def links(self, model: str, ranks: int) -> Figures:
        """Of sums as wide as the model."""
        width = (self.size.whisper if model == "whisper" else self.size.t5)["d_model"]
        work = rank_steps.links, self.device, [1, self.size.texts, self.size.decodes[0]], width
        return self._once(f"links of {model}, {ranks} ranks", Parallel(ranks), *work)

    def decoder(self, model: str, ranks: int, norm_bytes: int = SUMMED_NORM_BYTES) -> Figures:
        """`norm_bytes`: up to which norms sum over the ranks, over the number of other ranks."""
        size = self.size
        batches = list(size.decodes if model == "whisper" else (size.texts, 1))
        cross = 1500 if model == "whisper" else size.text_tokens
        more = "" if norm_bytes == SUMMED_NORM_BYTES else f", norms of {norm_bytes} bytes sum"
        return self._steps("decoder", model, ranks, more, batches, (cross, 32), norm_bytes)

    def encoder(self, ranks: int) -> Figures:
        return self._steps("encoder", "whisper", ranks, "", [1], 1500)

    def _steps(
        self, half: str, model: str, ranks: int, more: str, batches: list[int], lengths: Any,
        *last: Any,
    ) -> Figures:  # fmt: skip
        options: Options = {"load_format": "dummy", "device": self.device, "max_num_seqs": 64}
        options["kv_cache_memory_gib"] = self.size.kv_gib
        name = f"{half} of {model}, {ranks} ranks{more}"
        trace_name = re.sub(r"\W+", "-", name)
        trace = None if self.trace is None else self.trace / trace_name
        work = rank_steps.decoder if half == "decoder" else rank_steps.encoder
        arguments = self._folder / model, options, batches, lengths, self.size.steps, trace, *last
        figures = self._once(name, Parallel(ranks), work, *arguments)
        for trace_name, kernels in figures.get("profiles", {}).items():
            self.profiles[trace_name] = kernels
        return figures

    def engine(self, name: str, gpus: int, streams: bool = False, **layout: Any) -> Figures:
        """Offline, rows by load: `uniform`; and with `streams` also `skewed`, with short and long
        outputs, and then streams while clips arrive."""
        size = self.size
        count, outputs = size.clips * gpus, size.outputs
        loads = {"uniform": Load(count, 30.0, outputs)}
        running = None
        if streams:
            loads["skewed"] = Load(count, 30.0, outputs * 3 // 4, mixed=True)
            running = Streams(size.running, size.clip_every, size.stream_tokens)
        options: Options = {"load_format": "dummy", "device": self.device}
        options |= {"max_num_seqs": size.sequences, "startup_timeout": self.limit, **layout}
        arguments = self._folder / "whisper", options, loads, running
        return self._engine_once(name, layout_loads.measure, *arguments)

    def _engine_once(self, name: str, work: Callable[..., Any], *arguments: Any) -> Figures:
        self._ranks.close()  # its processes keep memory
        if not self._engines.pids():
            self._engines.run(Parallel(), layout_loads.start_ray, limit=self.limit)
        return self._once(name, None, work, *arguments)

    def _once(
        self, name: str, parallel: Parallel | None, work: Callable[..., Any], *arguments: Any
    ) -> Any:
        """What the leader returns; with `parallel` None, an engine's."""
        if name in self._failed:
            raise self._failed[name]
        if name not in self.known:
            processes = self._engines if parallel is None else self._ranks
            if parallel is not None and parallel.num_ranks > 1:
                # torch shares memory only among processes that have always done so together.
                if self._together not in (0, parallel.num_ranks):
                    self._ranks.close()
                self._together = parallel.num_ranks
            began = time.monotonic()
            try:
                results = processes.run(parallel or Parallel(), work, *arguments, limit=self.limit)
            except Exception as error:
                self._failed[name] = error
                raise
            self.known[name] = results[(parallel or Parallel()).leader]
            print(f"  {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return self.known[name]
