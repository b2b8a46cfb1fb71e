"""Steps of sampling whose vocabulary ranks share: made anew for each rank, on any device."""

from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from kernel_checks import on_device, random_slots
from sampling_steps import kernel_sampler

from antiphon.benchmarks.rank_processes import HOST, Seat
from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples
from antiphon.kernels import sampling
from antiphon.layers.shard import Shard, Span
from antiphon.runtime.joining import join

CPU = torch.device("cpu")
Arguments = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Samples]  # of `Sampler.greedy`


@dataclass(frozen=True)
class Batch:
    """Sequences in every state that the rules tell apart. `block`: tokens of one program."""

    seed: int = 0
    rules: TimestampRules | None = None
    count: int = 5
    vocabulary: int = 90
    block: int = 32

    def logits(self, barred: float = 0.0, whole_numbers: bool = False) -> torch.Tensor:
        """Of all words. `barred`: so many of them are minus infinity."""
        rng = np.random.default_rng(self.seed)
        shape = self.count, self.vocabulary
        logits = torch.from_numpy(rng.standard_normal(shape).astype(np.float32) * 3)
        logits[:, -30:] += float(rng.integers(-2, 2))  # most of them timestamps
        logits = logits.round() if whole_numbers else logits
        return logits.masked_fill(torch.from_numpy(rng.random(shape) < barred), float("-inf"))

    def step(
        self, logits: torch.Tensor, shard: Shard | None = None, device: torch.device = CPU
    ) -> tuple[Sampler, Arguments]:
        """A rank's sampler, and what it is given of the `logits` [count, vocabulary]."""
        span = Span.whole(self.vocabulary) if shard is None else shard.vocabulary(self.vocabulary)
        rng = np.random.default_rng(self.seed)
        rules = self.rules or TimestampRules(60, 59, 50, None)
        slots = random_slots(rng, rules, self.count, self.vocabulary, max_len=16)
        lengths = torch.from_numpy(slots.host["max_len"][: self.count].astype(np.int32)) - 1
        slots = on_device(slots, device)
        slots.vocabulary, slots.masks.rows = span, slots.masks.rows[:, span.slice]
        rows = torch.arange(self.count, dtype=torch.int32, device=device)
        own = logits.to(device)[:, span.slice]
        samples = Samples.empty(self.count, device)
        sampler = Sampler(slots, self.rules, shard, kernels=device.type == "cuda")
        return sampler, (own, rows, lengths.to(device), samples)

    def by_torch(self, logits: torch.Tensor, shard: Shard | None = None) -> Samples:
        """On the CPU."""
        sampler, step = self.step(logits.float(), shard)
        sampler.greedy(*step)
        return self._appended(sampler, step)

    def by_kernels(
        self, logits: torch.Tensor, shard: Shard | None = None, device: torch.device = CPU
    ) -> Samples:
        sampler, step = self.step(logits, shard, device)
        with mock.patch.object(sampling, "BLOCK", self.block):
            kernel_sampler(sampler, self.count + 1).greedy(*step)
        return self._appended(sampler, step)

    def captured(self, logits: torch.Tensor, shard: Shard, device: torch.device) -> Samples:
        """Of a step in a CUDA graph, captured with all logits 0 and replayed with `logits`."""
        sampler, step = self.step(torch.zeros_like(logits), shard, device)
        own = step[0]
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            sampler.greedy(*step)  # loads kernels, and makes the ranks known to each other
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            sampler.greedy(*step)
        own.copy_(logits.to(device)[:, sampler.vocabulary.span.slice])
        graph.replay()
        torch.cuda.synchronize(device)
        return self._appended(sampler, step)

    def _appended(self, sampler: Sampler, step: Arguments) -> Samples:
        """The samples, whose tokens stand behind their sequences. On the CPU."""
        _, rows, lengths, samples = step
        assert torch.equal(sampler.slots.tokens[rows.long(), lengths.long()], samples.tokens)
        return Samples(samples.packed.cpu())


def check_alike(actual: Samples, wanted: Samples) -> None:
    """The same tokens and nearly the same log-probabilities, whatever ranks they have."""
    assert actual.tokens.tolist() == wanted.tokens.tolist()
    for name in ("logprobs", "restricted_logprobs"):
        torch.testing.assert_close(
            getattr(actual, name), getattr(wanted, name), atol=2e-5, rtol=1e-5, equal_nan=True
        )


def chosen_by_rank(seat: Seat, batch: Batch, device_type: str) -> np.ndarray:
    """`Samples.packed` of a process: on a GPU of a graph whose exchange goes through NCCL, on a CPU
    of Triton's interpreter, and through gloo."""
    is_gpu = device_type == "cuda"
    device = torch.device("cuda", torch.cuda.current_device()) if is_gpu else CPU
    ranks = join(seat.spec, seat.address, HOST, device)
    choose = batch.captured if is_gpu else batch.by_kernels
    samples = choose(batch.logits(), Shard(ranks.tensor), device)
    ranks.barrier()
    ranks.close()
    return samples.packed.numpy()
