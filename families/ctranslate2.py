"""CTranslate2's folders (faster-whisper's too), read as if they were in transformers' format.

A folder holds `model.bin`, a config.json of CTranslate2's own, and the vocabulary as a list. Sizes
follow from the shapes of the variables; what family the model belongs to, from which of them there
are and from the switches that CTranslate2 stores beside them.
"""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

from antiphon.config.errors import UnsupportedModelError
from antiphon.config.locate import WEIGHTS
from antiphon.families.ctranslate2_file import FILE_NAME, ModelFile
from antiphon.families.ctranslate2_names import (
    MAX_DISTANCE,
    POSITIONS,
    RELATIVE_BIAS,
    Source,
    Table,
    bart_sources,
    t5_sources,
)
from antiphon.families.ctranslate2_tokens import CTranslate2Tokens

ACTIVATIONS = ("relu", "gelu_new", "silu", "gelu", "quick_gelu")  # by CTranslate2's number
WHISPER, MARIAN, M2M_100 = "WhisperForConditionalGeneration", "MarianMTModel", "M2M100"
BART_OFFSET = 2  # BART and mBART count learned positions from 2
MAX_NEW_TOKENS = 256  # where CTranslate2's translate_batch() stops when nobody says otherwise
FAIRSEQ_PADDING = 1  # M2M-100's padding token, behind which it counts positions


def is_ctranslate2(folder: Path) -> bool:
    """Whether CTranslate2's weights are those that are read of this folder."""
    return next((name for name in WEIGHTS if (folder / name).exists()), None) == FILE_NAME


def tensor_sources(folder: Path) -> tuple[ModelFile, dict[str, Source]]:
    """Where the tensors of transformers' names are. Raises CheckpointError."""
    model = CTranslate2Model(folder)
    return model.file, model.sources()


class CTranslate2Model:
    """What `model.bin`, config.json and the vocabulary of a folder say, in transformers' words.

    Every method raises CheckpointError for files that are missing or contradict each other, and
    UnsupportedModelError for a structure that is not read.
    """

    def __init__(self, folder: Path) -> None:
        self.file = ModelFile.read(folder)
        self.tokens = CTranslate2Tokens(folder)
        if self.file.kind not in ("WhisperSpec", "TransformerSpec"):
            raise UnsupportedModelError(
                f"{self.file.path} holds a {self.file.kind}: of CTranslate2's models those of "
                "speech recognition (Whisper) and translation (Marian, M2M-100, NLLB, BART, mBART, "
                "Pegasus, T5) are read; give the checkpoint that it was made from"
            )

    @cached_property
    def architecture(self) -> str:
        """transformers' name of it."""
        file = self.file
        if file.kind == "WhisperSpec":
            return WHISPER
        if f"encoder/layer_0/self_attention/{RELATIVE_BIAS}" in file:
            return "T5ForConditionalGeneration"
        if f"encoder/{POSITIONS}" not in file or "encoder/embeddings_1/weight" in file:
            raise UnsupportedModelError(
                f"{file.path} was converted from another toolkit than transformers (fairseq, "
                "OpenNMT, Marian itself): give a model that was converted from transformers"
            )
        if file.number("decoder/start_from_zero_embedding", 0):
            return MARIAN
        pre_norm = bool(file.number("encoder/pre_norm"))
        if "encoder/layernorm_embedding/gamma" in file:
            return f"{'MBart' if pre_norm else 'Bart'}ForConditionalGeneration"
        if not pre_norm:
            raise UnsupportedModelError(
                f"{file.path} has norms behind its layers and none behind its embeddings, which no "
                "family that is read here has"
            )
        # Pegasus' sinusoids begin at position 0, M2M-100's behind its padding token.
        fairseq = math.sin(FAIRSEQ_PADDING + 1)
        is_fairseq = abs(file.number(f"encoder/{POSITIONS}") - fairseq) < 1e-2
        return f"{M2M_100 if is_fairseq else 'Pegasus'}ForConditionalGeneration"

    def sources(self) -> dict[str, Source]:
        """Where the tensors of transformers' names are."""
        architecture = self.architecture
        if architecture.startswith("T5"):
            return t5_sources(self.file)
        is_bart = architecture.startswith(("Bart", "MBart"))
        table = Table(
            positions_before=BART_OFFSET if is_bart else 0,
            computes_positions=architecture.startswith(M2M_100),
            words_behind=1 if architecture == MARIAN else 0,
        )
        return bart_sources(self.file, table, key_bias=architecture != WHISPER)

    # ------------------------------------------------------------------ config.json

    def config(self) -> dict[str, Any]:
        """config.json as transformers has it."""
        shared = {
            "architectures": [self.architecture],
            "dtype": self._dtype(),
            **self._special_tokens(),
        }
        if self.architecture.startswith("T5"):
            return {**shared, **self._t5_config()}
        return {**shared, **self._bart_config()}

    @property
    def has_eight_bits(self) -> bool:
        return self._weight_dtype == "int8"

    @property
    def _weight_dtype(self) -> str:
        weight = "decoder/layer_0/ffn/linear_0/weight"
        self.file.shape(weight)  # that it is there
        return self.file.variables[weight].dtype

    def _dtype(self) -> str:
        """The precision that the file is in. Of eight bits float16: in it as in float32, and not in
        bfloat16, `quantization="int8"` finds the file's own numbers again."""
        dtype = self._weight_dtype
        return "float16" if dtype.startswith("int") else dtype

    def _bart_config(self) -> dict[str, Any]:
        file, is_whisper = self.file, self.architecture == WHISPER
        words = file.shape("decoder/embeddings/weight")[0]
        config: dict[str, Any] = {
            "vocab_size": words + (1 if self.architecture == MARIAN else 0),
            "tie_word_embeddings": file.same(
                "decoder/projection/weight", "decoder/embeddings/weight"
            ),
            "activation_function": self._activation("gelu" if is_whisper else None),
        }
        for side in ("encoder", "decoder"):
            ffn = file.shape(f"{side}/layer_0/ffn/linear_0/weight")
            config |= {
                "d_model": ffn[1],
                f"{side}_ffn_dim": ffn[0],
                f"{side}_layers": file.layers(side),
                f"{side}_attention_heads": int(file.number(f"{side}/num_heads")),
            }
        positions = {side: file.shape(f"{side}/{POSITIONS}")[0] for side in ("encoder", "decoder")}
        if is_whisper:
            return config | {
                "model_type": "whisper",
                "num_mel_bins": file.shape("encoder/conv1/weight")[1],
                "max_source_positions": positions["encoder"],
                "max_target_positions": positions["decoder"],
            }
        self._check_source_words(words)
        return config | {
            "max_position_embeddings": positions["decoder"],
            "scale_embedding": self._scales_embedding(config["d_model"]),
        }

    def _t5_config(self) -> dict[str, Any]:
        file, first = self.file, "encoder/layer_0"
        heads = int(file.number("encoder/num_heads"))
        bias = f"{first}/self_attention/{RELATIVE_BIAS}"
        width, inner = file.shape(f"{first}/self_attention/linear_1/weight")
        scale = file.number("decoder/scale_outputs", 1.0)
        if scale != 1.0 and not math.isclose(scale, width**-0.5, rel_tol=1e-2):
            raise UnsupportedModelError(f"{file.path} scales its outputs by {scale:g}")
        words = file.shape("decoder/embeddings/weight")[0]
        self._check_source_words(words)
        gated = f"{first}/ffn/linear_0_noact/weight" in file
        activation = self._activation(None)
        return {
            "vocab_size": words,
            "d_model": width,
            "d_kv": inner // heads,
            "d_ff": file.shape(f"{first}/ffn/linear_0/weight")[0],
            "num_heads": heads,
            "num_layers": file.layers("encoder"),
            "num_decoder_layers": file.layers("decoder"),
            "relative_attention_num_buckets": file.shape(bias)[0],
            "relative_attention_max_distance": int(
                file.number(f"{first}/self_attention/{MAX_DISTANCE}")
            ),
            # transformers' gated-gelu is the approximation by tanh.
            "feed_forward_proj": f"gated-{activation.removesuffix('_new')}"
            if gated
            else activation,
            "scale_decoder_outputs": scale != 1.0,
            "tie_word_embeddings": file.same(
                "decoder/projection/weight", "decoder/embeddings/weight"
            ),
        }

    def _activation(self, default: str | None) -> str:
        if default is not None:
            return default
        numbers = {int(self.file.number(f"{side}/activation")) for side in ("encoder", "decoder")}
        if len(numbers) > 1 or max(numbers) >= len(ACTIVATIONS):
            raise UnsupportedModelError(
                f"{self.file.path} has the activations {sorted(numbers)} of CTranslate2's, which "
                "are not read"
            )
        return ACTIVATIONS[numbers.pop()]

    def _scales_embedding(self, width: int) -> bool:
        """Whether embeddings are scaled by the square root of their width.

        A whole number says whether; another is the scale itself.
        """
        name = "encoder/scale_embeddings"
        scale = self.file.number(name, 1)
        if name not in self.file or self.file.variables[name].dtype == "int8":
            return bool(scale)
        if not any(math.isclose(scale, known, rel_tol=1e-2) for known in (1.0, math.sqrt(width))):
            raise UnsupportedModelError(f"{self.file.path} scales its embeddings by {scale:g}")
        return not math.isclose(scale, 1.0, rel_tol=1e-2)

    def _check_source_words(self, words: int) -> None:
        source = self.file.shape("encoder/embeddings_0/weight")[0]
        if source != words:
            raise UnsupportedModelError(
                f"{self.file.path} has {source} words of the source and {words} of the target: "
                "vocabularies of two sizes are not read from CTranslate2's format"
            )

    # ------------------------------------------------------------------ generation_config.json

    def generation(self) -> dict[str, Any]:
        """generation_config.json as transformers has it."""
        special = self._special_tokens()
        if self.architecture == WHISPER:
            positions = self.file.shape(f"decoder/{POSITIONS}")[0]
            return {**special, **self.tokens.whisper_generation(), "max_length": positions}
        settings: dict[str, Any] = {**special, "max_new_tokens": MAX_NEW_TOKENS}
        if self.architecture == MARIAN:
            settings["suppress_tokens"] = [special["pad_token_id"]]
        return settings

    def _special_tokens(self) -> dict[str, int | None]:
        if self.architecture == WHISPER:
            return self.tokens.whisper_special()
        special = self.tokens.text_special()
        if self.architecture == MARIAN:  # the token that the file leaves out begins its texts
            padding = self.file.shape("decoder/embeddings/weight")[0]
            return special | {"decoder_start_token_id": padding, "pad_token_id": padding}
        if self.architecture.startswith(M2M_100):
            special["pad_token_id"] = FAIRSEQ_PADDING
        if "decoder_start_token_id" not in special:
            raise UnsupportedModelError(
                f"{self.file.path}: its texts begin with a language that every call names "
                "(mBART-25), which is not read from CTranslate2's format"
            )
        return special
