"""compressed-tensors' `quantization_config` (llm-compressor, RedHatAI's and Neural Magic's models).

Its groups of layers each have a scheme of weights and of inputs.
"""

from collections.abc import Mapping
from typing import Any

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.quantization.scheme import (
    EVERY,
    InputScheme,
    Rule,
    Scheme,
    StoredQuantization,
    WeightScheme,
)

PACKED = "pack-quantized"  # weights of up to eight bits in words of 32
FORMATS = (PACKED, "int-quantized", "float-quantized", "naive-quantized", "mixed-precision")
REMEDY = "quantise the model to FP8, W8A8, W8A16 or W4A16, or give it unquantised"


def read_compressed_tensors(settings: Mapping[str, Any]) -> StoredQuantization:
    _refuse_others(settings)
    groups = settings["config_groups"]
    return StoredQuantization(
        method="compressed-tensors",
        rules=tuple(_rule(name, group, settings.get("format")) for name, group in groups.items()),
        kept_out=tuple(settings.get("ignore") or ()),
        kv_scales=bool(settings.get("kv_cache_scheme")),
    )


def _refuse_others(settings: Mapping[str, Any]) -> None:
    sparsity = (settings.get("sparsity_config") or {}).get("format", "dense")
    if sparsity != "dense":
        raise UnsupportedModelError(
            f"weights of compressed-tensors that are sparse ({sparsity}) are not read: {REMEDY}"
        )
    if (settings.get("transform_config") or {}).get("config_groups"):
        raise UnsupportedModelError(
            "compressed-tensors' transforms of activations (SpinQuant, QuIP) are not computed: "
            f"{REMEDY}"
        )
    if not settings.get("config_groups"):
        raise UnsupportedModelError(
            f"compressed-tensors' settings without config_groups are not read: {REMEDY}"
        )


def _rule(name: str, group: Mapping[str, Any], shared: str | None) -> Rule:
    layout = group.get("format") or shared or "dense"
    if layout not in FORMATS:
        raise UnsupportedModelError(
            f"compressed-tensors' format {layout} is not read ({', '.join(FORMATS)} are): {REMEDY}"
        )
    if group.get("output_activations"):
        raise UnsupportedModelError(
            f"{name} of compressed-tensors quantises outputs of layers, which is not computed: "
            f"{REMEDY}"
        )
    if not group.get("weights"):
        raise UnsupportedModelError(
            f"{name} of compressed-tensors quantises activations and no weights: {REMEDY}"
        )
    weights = _weights(name, group["weights"], layout)
    inputs = _inputs(name, group.get("input_activations"), weights)
    return Rule(tuple(group["targets"]), Scheme(weights, inputs))


def _weights(name: str, args: Mapping[str, Any], layout: str) -> WeightScheme:
    kind, bits = str(args.get("type", "int")).lower(), args.get("num_bits", 8)
    if (kind, bits) not in (("int", 4), ("int", 8), ("float", 8)):
        raise UnsupportedModelError(
            f"{name} of compressed-tensors has weights of {kind}{bits}, which are not read "
            f"(int4, int8 and float8 are): {REMEDY}"
        )
    return WeightScheme(
        kind="int" if kind == "int" else "float",
        bits=bits,
        block=_block(name, args),
        symmetric=args.get("symmetric", True),
        layout=layout,
    )


def _block(name: str, args: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    size = args.get("group_size")
    strategy = args.get("strategy") or {None: "tensor", -1: "channel"}.get(size, "group")
    if strategy == "block":
        structure = args["block_structure"]
        rows, columns = structure.split("x") if isinstance(structure, str) else structure
        return int(rows), int(columns)
    blocks = {"tensor": (EVERY, EVERY), "channel": (1, EVERY), "group": (1, int(size or 0))}
    if strategy not in blocks:
        raise UnsupportedModelError(
            f"{name} of compressed-tensors has scales of weights by {strategy}, which is not read "
            f"({', '.join(blocks)} and block are): {REMEDY}"
        )
    return blocks[strategy]


def _inputs(name: str, args: Mapping[str, Any] | None, weights: WeightScheme) -> InputScheme | None:
    if not args or args.get("num_bits", 8) == 16:
        return None
    kind, bits = str(args.get("type", "int")).lower(), args.get("num_bits", 8)
    strategy = args.get("strategy") or "tensor"
    size = args.get("group_size") or 0
    if bits != 8 or kind != weights.kind or weights.bits != 8:
        raise UnsupportedModelError(
            f"{name} of compressed-tensors has inputs of {kind}{bits} and weights of "
            f"{weights.kind}{weights.bits}, which are not multiplied here: {REMEDY}"
        )
    dynamic = bool(args.get("dynamic", False))
    if strategy not in ("tensor", "token", "group") or (strategy == "group" and not dynamic):
        raise UnsupportedModelError(
            f"{name} of compressed-tensors has scales of inputs by {strategy}, which is not "
            f"computed: {REMEDY}"
        )
    # A dynamic scale of a whole batch would make each text depend on the others: each token has
    # its own, which is finer.
    return InputScheme(
        kind="int" if kind == "int" else "float",
        dynamic=dynamic,
        symmetric=args.get("symmetric", True),
        group=size if strategy == "group" else EVERY,
    )
