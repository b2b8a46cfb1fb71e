"""Triton kernels against torch, in the interpreter or on a device."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from antiphon.config.decoding_rules import BeamRules, DecodingRules, TimestampRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.sampling.beams import DeviceBeams, PackedBeams
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.state import Slots
from antiphon.kv.pool import KVPool
from antiphon.kv.queries import QueryPages
from antiphon.layers.activations import Activation
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.linear_methods import SmallBatch
from antiphon.layers.norms import DeferredNorm, LayerNorm, Norm, RMSNorm
from antiphon.layers.prepare import fuse_small_batches
from antiphon.layers.residual import Residual
from antiphon.runtime.device import Target
from antiphon.scheduler.plan import Admission

FLOAT8 = torch.float8_e4m3fn
AnyBeams = DeviceBeams | PackedBeams


def check_small_batch(
    rows: int,
    norm: Norm | None,
    sizes: tuple[int, int],
    activation: str | None,
    device: str,
    dtype: torch.dtype,
) -> None:
    """A linear layer with what lies around it, in one kernel, against torch in float32."""
    inputs, outputs = sizes
    layer = Linear(inputs, outputs, bias=not isinstance(norm, RMSNorm))
    layers = nn.ModuleList([layer] if norm is None else [layer, norm])
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.05, mean=1.0 if parameter.shape == (inputs,) else 0.0)
    layers.to(dtype)
    x = torch.randn(rows, inputs).to(dtype) + 0.5
    before = torch.randn(rows, outputs).to(dtype)
    normed = x if norm is None else norm.in_torch(x)
    bias = None if layer.bias is None else layer.bias.float()
    wanted = nn.functional.linear(normed.float(), layer.weight.float(), bias)
    act = None if activation is None else Activation(activation)
    wanted = wanted if act is None else act(wanted)

    fuse_small_batches(layers.to(device), Target(torch.device("cuda"), dtype))
    assert isinstance(layer.method, SmallBatch)
    features = x.to(device) if norm is None else norm(Residual(x.to(device)))[0]
    assert norm is None or isinstance(features, DeferredNorm)
    assert layer.method.fits(features)
    out = layer(features) if act is None else layer.activated(features, act)
    tolerance = (
        {"atol": 4e-2, "rtol": 2e-2} if dtype == torch.bfloat16 else {"atol": 5e-3, "rtol": 5e-3}
    )
    torch.testing.assert_close(out.float().cpu(), wanted, **tolerance)
    if act is None:
        residual = layer.add_to(Residual(before.to(device)), features)
        assert residual.pending is None
        torch.testing.assert_close(residual.x.float().cpu(), before.float() + wanted, **tolerance)


@torch.inference_mode()
def check_projecting(
    rows: int, kv_dtype: torch.dtype, dtype: torch.dtype, device: str, kv_heads: int = 2
) -> None:
    """One kernel returns the queries and writes keys and values to pages, as several kernels do."""
    pools = [KVPool(1, 4, 8, kv_heads, 64, kv_dtype, torch.device(device)) for _ in range(2)]
    widths = {"q": 128, "k": 64 * kv_heads, "v": 64 * kv_heads}
    layer, norm = StackedLinear(256, widths, bias=True), LayerNorm(256)
    nn.init.normal_(layer.weight, std=1.0)
    layers = nn.ModuleList([layer, norm]).to(device, dtype)
    x = torch.randn(rows, 256, device=device, dtype=dtype)
    slot_mapping = torch.tensor([17, 3, 30, 8][:rows], device=device).int()
    x[0] *= 30
    wanted = layer.queries(norm(Residual(x))[0], pools[0].destination(0, slot_mapping))
    fuse_small_batches(layers, Target(torch.device("cuda"), dtype))
    features, _ = norm(Residual(x))
    assert isinstance(features, DeferredNorm)
    actual = layer.queries(features, pools[1].destination(0, slot_mapping))
    tolerance = (
        {"atol": 0.3, "rtol": 2e-2} if dtype == torch.bfloat16 else {"atol": 5e-2, "rtol": 5e-3}
    )
    torch.testing.assert_close(actual, wanted, **tolerance)
    actual_pages, wanted_pages = (pool.layers[0].float() for pool in (pools[1], pools[0]))
    assert wanted_pages.abs().amax() > 10
    if kv_dtype == FLOAT8:  # a sum that is rounded otherwise may be a step of float8 away
        tolerance = {"atol": 0.3, "rtol": 0.13}
    torch.testing.assert_close(actual_pages, wanted_pages, **tolerance)


def _own(rules: TimestampRules, rng: np.random.Generator) -> TimestampRules:
    """A request may have a limit of its own for its first timestamp."""
    return replace(rules, max_initial=int(rng.integers(0, 8))) if rng.random() < 0.5 else rules


def random_slots(
    rng: np.random.Generator,
    rules: TimestampRules,
    count: int,
    vocabulary: int,
    max_len: int,
    with_beams: bool = False,
) -> Slots:
    """Sequences in every state that the rules tell apart; `with_beams`: most of them of searches,
    none with ranks."""
    slots = Slots(count, max_len, vocabulary, torch.device("cpu"))
    for slot in range(count):
        prompt = int(rng.integers(1, 4))
        tokens = rng.integers(0, vocabulary, prompt + int(rng.integers(0, 6)))
        times = rng.random(len(tokens)) < 0.4
        tokens[times] = rng.integers(rules.first_id, vocabulary, int(times.sum()))
        decoding = DecodingRules(
            stop_ids=(rules.end_id, 3),
            suppress=tuple(rng.integers(0, 40, 3).tolist()) if rng.random() < 0.5 else (),
            begin_suppress=(5, 6),
            timestamps=_own(rules, rng) if rng.random() < 0.7 else None,
            forced_first=17 if rng.random() < 0.1 else None,
            forced_last=18 if rng.random() < 0.3 else None,
            min_tokens=int(rng.integers(0, 4)),
        )
        limit = len(tokens) + int(rng.integers(1, 3))
        params = SamplingParams(logprobs=0 if rng.random() < 0.5 else None)
        if with_beams:
            decoding = replace(decoding, beams=_beams(rng) if rng.random() < 0.8 else None)
            params = SamplingParams()
        slots.admit([Admission(slot, tokens, prompt, limit, 0, params, decoding)])
    return slots


def _beams(rng: np.random.Generator) -> BeamRules:
    by_whisper, renormalize = rng.random(2) < 0.5
    return BeamRules(int(rng.integers(1, 6)), by_whisper=by_whisper, renormalize=renormalize)


def on_device(slots: Slots, device: torch.device) -> Slots:
    """A copy of `slots`, of the whole vocabulary, there."""
    copied = Slots(slots.scratch, slots.tokens.shape[1] - 1, slots.vocab_size, device)
    copied.tokens.copy_(slots.tokens)
    copied.stop_ids.copy_(slots.stop_ids)
    copied.masks.rows.copy_(slots.masks.rows)
    for name, row in slots.on_device.items():
        copied.on_device[name].copy_(row)
    for dtype, rows in slots.host.rows.items():
        copied.host.rows[dtype][:] = rows
    copied.host.note_asking(np.arange(slots.scratch))
    return copied


def check_beams(actual: AnyBeams | None, wanted: AnyBeams | None) -> None:
    """On the host: the same tokens that are not barred, with nearly the same log-probabilities."""
    assert actual is not None
    assert wanted is not None
    own, right = (beams.start_copy() for beams in (actual, wanted))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    is_own, is_right = own.on_host(), right.on_host()
    for name in ("rows", "ids", "scores", "logprobs", "ranks"):
        array, other = getattr(is_own, name), getattr(is_right, name)
        assert (array.dtype, array.shape) == (other.dtype, other.shape), name
    assert is_own.rows.tolist() == is_right.rows.tolist()
    allowed = np.isfinite(is_right.scores)
    assert np.array_equal(np.isfinite(is_own.scores), allowed)
    assert is_own.ids[allowed].tolist() == is_right.ids[allowed].tolist()
    for name in ("scores", "logprobs"):
        own_values, values = (getattr(one, name)[allowed] for one in (is_own, is_right))
        np.testing.assert_allclose(own_values, values, atol=2e-5, rtol=1e-5)


def check_copied_pages(
    dtype: torch.dtype,
    head_dim: int,
    device: torch.device,
    sources: np.ndarray,
    targets: np.ndarray,
) -> None:
    """Pages of all layers and of queries hold what was in their sources before."""
    most = int(max(sources.max(), targets.max())) + 2
    pool = KVPool(2, most, 3, 1, head_dim, dtype, device)
    pool.queries = QueryPages({1: [0, 1]}, 2, (most + 1, 3, head_dim), dtype, device)
    everything = [*(pages for layer in pool.layers for pages in layer), pool.queries.pages]
    before = []
    for number, pages in enumerate(everything):
        raw = pages.view(torch.uint8)
        raw.copy_(torch.arange(raw.numel()).add(number).remainder(101).view(raw.shape))
        before.append(raw.clone())
    pool.copy_pages(sources, targets)
    for pages, raw in zip(everything, before, strict=True):
        wanted = raw.clone()
        wanted[targets] = raw[sources]
        assert torch.equal(pages.view(torch.uint8), wanted)


def check_samples(actual: Samples, wanted: Samples) -> None:
    """The same tokens and ranks, and nearly the same log-probabilities."""
    assert actual.tokens.tolist() == wanted.tokens.tolist()
    assert actual.ranks.tolist() == wanted.ranks.tolist()
    for name in ("logprobs", "restricted_logprobs"):
        values = getattr(wanted, name)
        assert values.isfinite().all()
        torch.testing.assert_close(getattr(actual, name).cpu(), values, atol=2e-5, rtol=1e-5)
