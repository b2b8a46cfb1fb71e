"""Where the tensors that transformers names lie in CTranslate2's `model.bin`.

CTranslate2 stacks the projections of one input row by row: queries, keys and values of
self-attention, keys and values of cross-attention. It leaves out the rows of tables that its own
code does not read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.ctranslate2_file import ModelFile

LEAVES = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
POSITIONS = "position_encodings/encodings"
RELATIVE_BIAS, MAX_DISTANCE = "relative_attention_bias", "relative_attention_max_distance"
# Modules of a layer: CTranslate2's name, and transformers' for it or for the parts of its stack.
BART_LAYER: dict[str, tuple[str, ...]] = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
_T5_SELF, _T5_CROSS = "layer.0.SelfAttention", "layer.1.EncDecAttention"
T5_LAYER: dict[str, tuple[str, ...]] = {
    "self_attention/layer_norm": ("layer.0.layer_norm",),
    "self_attention/linear_0": (f"{_T5_SELF}.q", f"{_T5_SELF}.k", f"{_T5_SELF}.v"),
    "self_attention/linear_1": (f"{_T5_SELF}.o",),
    "attention/layer_norm": ("layer.1.layer_norm",),
    "attention/linear_0": (f"{_T5_CROSS}.q",),
    "attention/linear_1": (f"{_T5_CROSS}.k", f"{_T5_CROSS}.v"),
    "attention/linear_2": (f"{_T5_CROSS}.o",),
}


@dataclass(frozen=True)
class Source:
    """Rows `first` to `last` of a variable, with rows of zeros before and behind them."""

    variable: str
    first: int
    last: int
    before: int = 0
    behind: int = 0


@dataclass(frozen=True)
class Table:
    """Rows of zeros that a table has in transformers and not in the file."""

    positions_before: int = 0  # of learned positions, as BART counts them from 2
    computes_positions: bool = False  # transformers does not store them
    words_behind: int = 0  # Marian's padding token


def bart_sources(file: ModelFile, table: Table, key_bias: bool) -> dict[str, Source]:
    """Of BART's structure, and of Whisper's without `key_bias`, by transformers' names."""
    sources: dict[str, Source] = {}
    for side, module, leaf, variable in _split(file):
        if f"{module}/{leaf}" == POSITIONS:
            if not table.computes_positions:
                name = f"model.{side}.embed_positions.weight"
                sources[name] = _whole(file, variable, before=table.positions_before)
        elif module in ("embeddings", "embeddings_0"):
            name = f"model.{side}.embed_tokens.weight"
            sources[name] = _whole(file, variable, behind=table.words_behind)
        elif module == "projection":
            name = "final_logits_bias" if leaf == "bias" else "lm_head.weight"
            sources[name] = _whole(file, variable, behind=table.words_behind)
        elif match := re.fullmatch(r"layer_(\d+)/(.+)", module):
            number, sublayer = match.groups()
            for name, source in _parts(file, variable, sublayer, BART_LAYER):
                sources[f"model.{side}.layers.{number}.{name}.{LEAVES[leaf]}"] = source
        else:  # norms of a half, Whisper's convolutions
            sources[f"model.{side}.{module}.{LEAVES[leaf]}"] = _whole(file, variable)
    if not key_bias:  # the file holds zeros in their place
        sources = {
            name: source for name, source in sources.items() if not name.endswith("k_proj.bias")
        }
    return sources


def t5_sources(file: ModelFile) -> dict[str, Source]:
    """Of T5's structure, by transformers' names. Raises UnsupportedModelError for UMT5's, where
    each layer has relative positions of its own."""
    sources: dict[str, Source] = {}
    for side, module, leaf, variable in _split(file):
        if module in ("embeddings", "embeddings_0"):
            sources[f"{side}.embed_tokens.weight"] = _whole(file, variable)
        elif module == "projection":
            sources["lm_head.weight"] = _whole(file, variable)
        elif module == "layer_norm":
            sources[f"{side}.final_layer_norm.weight"] = _whole(file, variable)
        elif match := re.fullmatch(r"layer_(\d+)/(.+)", module):
            number, sublayer = match.groups()
            for name, source in _t5_parts(file, side, variable, sublayer, leaf):
                if not (leaf == RELATIVE_BIAS and number != "0"):
                    sources[f"{side}.block.{number}.{name}.weight"] = source
        else:
            sources[variable] = _whole(file, variable)
    return sources


def _t5_parts(
    file: ModelFile, side: str, variable: str, sublayer: str, leaf: str
) -> Iterator[tuple[str, Source]]:
    if leaf == RELATIVE_BIAS:
        if not file.same(variable, f"{side}/layer_0/self_attention/{RELATIVE_BIAS}"):
            raise UnsupportedModelError(
                f"{file.path} has relative positions of each layer's own (UMT5), which are not "
                "read yet"
            )
        yield f"{_T5_SELF}.{RELATIVE_BIAS}", _whole(file, variable)
        return
    dense = f"layer.{1 if side == 'encoder' else 2}"
    gated = f"{side}/layer_0/ffn/linear_0_noact/weight" in file
    feed_forward: dict[str, tuple[str, ...]] = {
        "ffn/layer_norm": (f"{dense}.layer_norm",),
        "ffn/linear_0": (f"{dense}.DenseReluDense.{'wi_0' if gated else 'wi'}",),
        "ffn/linear_0_noact": (f"{dense}.DenseReluDense.wi_1",),
        "ffn/linear_1": (f"{dense}.DenseReluDense.wo",),
    }
    yield from _parts(file, variable, sublayer, T5_LAYER | feed_forward)


def _split(file: ModelFile) -> Iterator[tuple[str, str, str, str]]:
    """(half, module, leaf, name) of each variable that is a tensor of transformers', without the
    head's matrix where it is the embedding's."""
    for variable, stored in file.variables.items():
        side, _, rest = variable.partition("/")
        module, _, leaf = rest.rpartition("/")
        known = leaf in LEAVES or leaf == RELATIVE_BIAS or rest == POSITIONS
        if not stored.shape or not known:
            continue
        if rest == "projection/weight" and file.same(variable, "decoder/embeddings/weight"):
            continue
        yield side, module, leaf, variable


def _parts(
    file: ModelFile, variable: str, sublayer: str, names: dict[str, tuple[str, ...]]
) -> Iterator[tuple[str, Source]]:
    if sublayer not in names:
        raise UnsupportedModelError(
            f"{file.path} has {variable}, which no family that is read here has"
        )
    parts = names[sublayer]
    rows = file.shape(variable)[0] // len(parts)
    for number, name in enumerate(parts):
        yield name, Source(variable, number * rows, (number + 1) * rows)


def _whole(file: ModelFile, variable: str, before: int = 0, behind: int = 0) -> Source:
    return Source(variable, 0, file.shape(variable)[0], before, behind)
