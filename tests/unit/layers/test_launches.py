"""Which kernels a block asks for on a GPU, in which order. The kernels are recorded, not run."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("triton")

from antiphon.decoder.models.bart import DecoderLayer
from antiphon.decoder.models.interface import DecoderStep
from antiphon.decoder.models.t5 import DecoderLayer as T5DecoderLayer
from antiphon.families.halves import BartHalf, T5Half
from antiphon.kernels import norms, small_batch_linear
from antiphon.kv.pool import KVPool
from antiphon.layers.kv_destination import KVDestination
from antiphon.layers.prepare import choose_kernels, fuse_small_batches
from antiphon.layers.quantization.quantize import quantize_to_int8
from antiphon.layers.residual import Residual
from antiphon.layers.shard import Shard
from antiphon.runtime.device import Target

SIZE, HEADS = 256, 4
DTYPE = torch.bfloat16
GPU = Target(torch.device("cuda"), DTYPE)
WIDE = 5120  # inputs from which a product's sum is split


def bart_layer(pre_norm: bool, ffn: int = WIDE) -> nn.Module:
    half = BartHalf(
        side="decoder", hidden_size=SIZE, num_layers=1, num_heads=HEADS, num_kv_heads=HEADS,
        head_dim=SIZE // HEADS,
        attention_scale=1.0, ffn_size=ffn, vocab_size=8, activation="gelu", pre_norm=pre_norm,
        max_positions=8, embedding_norm=False, positions="learned", position_offset=0,
        embedding_scale=1.0,
    )  # fmt: skip
    return DecoderLayer(half, 0, Shard())


def t5_layer() -> nn.Module:
    half = T5Half(
        side="decoder", hidden_size=SIZE, num_layers=1, num_heads=HEADS, num_kv_heads=HEADS,
        head_dim=SIZE // HEADS,
        ffn_size=512, vocab_size=8, activation="gelu_new", gated=True, bias_buckets=8,
        bias_max_distance=16, norm_eps=1e-6, logits_scale=1.0,
    )  # fmt: skip
    return T5DecoderLayer(half, 0, Shard())


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is launched; the stand-ins return tensors of the right shapes."""
    seen: list[str] = []

    def record(name: str, result: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*arguments: Any, **options: Any) -> Any:
            fused = [key for key in ("norm", "activation", "residual", "pages") if options.get(key)
                     is not None]  # fmt: skip
            seen.append("+".join([name, *fused]))
            return result(*arguments, **options)

        return stand_in

    def small_batch(x: torch.Tensor, weight: torch.Tensor, *_: Any, **options: Any) -> torch.Tensor:
        return x.new_zeros(len(x), len(weight) // (1 if options["pages"] is None else 3))

    def product(x: torch.Tensor, weight: torch.Tensor, *_: Any) -> torch.Tensor:
        return x.new_zeros(len(x), len(weight))

    def split(x: torch.Tensor, weight: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.zeros(len(x), x.shape[1], weight.shape[2])

    def epilogue(
        bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        return x.new_zeros(len(x), weight.shape[1])

    monkeypatch.setattr(small_batch_linear, "linear", record("small batch", small_batch))
    monkeypatch.setattr(norms, "add_norm", record("norm", lambda x, *_: (x, x)))
    monkeypatch.setattr(norms, "activation", record("activation", lambda kind, x, gate: x))
    monkeypatch.setattr(F, "linear", record("product", product))
    monkeypatch.setattr(torch, "bmm", record("split-K product", split))
    monkeypatch.setattr(torch, "_addmm_activation", record("product with activation", epilogue))
    monkeypatch.setattr(KVDestination, "write", record("write", lambda *_: None))
    return seen


def run(layer: nn.Module, rows: int, *more: Any, int8: bool = False) -> Residual:
    layer.to(DTYPE)
    pool = KVPool(1, 4, 64, HEADS, SIZE // HEADS, DTYPE, torch.device("cpu"))
    attention: Any = SimpleNamespace(run=lambda q, k, v, bias=None: q)
    slot_mapping = torch.arange(rows, dtype=torch.int32)
    step = DecoderStep(pool, slot_mapping, attention, attention)
    if int8:
        quantize_to_int8(layer)
    else:
        choose_kernels(SimpleNamespace(layers=None, modules=layer.modules), GPU)  # type: ignore[arg-type]
    fuse_small_batches(layer, GPU)
    residual: Residual = layer(Residual(torch.zeros(rows, SIZE, dtype=DTYPE)), step, *more)
    return residual


def test_a_pre_norm_block_of_a_small_batch_is_six_kernels(launches: list[str]) -> None:
    residual = run(bart_layer(pre_norm=True), 4)
    assert launches == [
        "small batch+norm+pages",
        "small batch+residual",
        "small batch+norm",
        "small batch+residual",
        "small batch+norm+activation",
        "small batch+residual",
    ]
    assert residual.pending is None


def test_a_pre_norm_block_of_a_larger_batch(launches: list[str]) -> None:
    """Residual sums are left to norms; the last one to the norm of the next block."""
    residual = run(bart_layer(pre_norm=True), 5)
    assert launches == [
        "norm", "product", "write", "product",
        "norm", "product", "product",
        "norm", "product with activation", "split-K product",
    ]  # fmt: skip
    assert residual.pending is not None


@pytest.mark.parametrize(
    ("ffn", "rows", "last"),
    [(WIDE, 256, "split-K product"), (WIDE, 257, "product"), (2048, 32, "product")],
)
def test_the_sum_is_split_for_many_inputs_and_few_tiles(
    ffn: int, rows: int, last: str, launches: list[str]
) -> None:
    run(bart_layer(True, ffn), rows)
    assert launches[-1] == last


def test_a_post_norm_block_of_a_small_batch(launches: list[str]) -> None:
    """A norm behind a sublayer is always computed: what follows adds to it."""
    run(bart_layer(pre_norm=False), 4)
    assert launches == [
        "small batch+pages", "small batch+residual", "norm",
        "small batch", "small batch+residual", "norm",
        "small batch+activation", "small batch+residual", "norm",
    ]  # fmt: skip


def test_a_post_norm_block_of_a_larger_batch(launches: list[str]) -> None:
    run(bart_layer(pre_norm=False), 32)
    assert launches == [
        "product", "write", "product", "norm",
        "product", "product", "norm",
        "product with activation", "split-K product", "norm",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "feed_forward"),
    [
        (4, ["small batch+norm", "activation", "small batch+residual"]),
        (5, ["norm", "product", "activation", "product"]),
    ],
)
def test_a_gated_feed_forward_of_t5(
    rows: int, feed_forward: list[str], launches: list[str]
) -> None:
    run(t5_layer(), rows, None)
    assert launches[-len(feed_forward) :] == feed_forward


def test_int8_weights_keep_the_kernel_for_small_batches(launches: list[str]) -> None:
    run(bart_layer(pre_norm=True, ffn=512), 4, int8=True)
    assert len(launches) == 6
    assert all(name.startswith("small batch") for name in launches)


def test_two_sublayers_without_a_norm_between_them_are_refused() -> None:
    x = torch.zeros(2, 4)
    with pytest.raises(AssertionError, match="without a norm between them"):
        Residual(x).plus(x).plus(x)
