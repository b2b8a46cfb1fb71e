"""Small random translation models, each with a real tokenizer class of its family."""

import json
from pathlib import Path
from typing import Any

import sentencepiece
import tiny_models
import torch
from transformers import (
    GenerationConfig,
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    NllbTokenizer,
    PreTrainedModel,
)

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
LETTERS = ["▁", *"abcdefghijklmnopqrstuvwxyz"]


def _sentencepiece(folder: Path) -> tuple[Path, list[str]]:
    (folder / "text.txt").write_text(
        "\n".join(
            f"the {color} house on the hill {n}"
            for n, color in enumerate(["red", "blue", "old"] * 40)
        )
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "spm"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    return folder / "spm.model", [model.id_to_piece(i) for i in range(model.get_piece_size())]


def nllb(folder: Path) -> tuple[Any, type, type]:
    vocabulary = {token: id_ for id_, token in enumerate([*SPECIALS, *LETTERS])}
    return NllbTokenizer(vocab=vocabulary, merges=[]), M2M100Config, M2M100ForConditionalGeneration


def nllb_legacy(folder: Path) -> tuple[Any, type, type]:
    vocabulary = {token: id_ for id_, token in enumerate([*SPECIALS, *LETTERS])}
    return (
        NllbTokenizer(vocab=vocabulary, merges=[], legacy_behaviour=True),
        M2M100Config,
        M2M100ForConditionalGeneration,
    )


def m2m100(folder: Path) -> tuple[Any, type, type]:
    spm, pieces = _sentencepiece(folder)
    names = dict.fromkeys([*SPECIALS, *pieces])
    (folder / "vocab.json").write_text(json.dumps({piece: id_ for id_, piece in enumerate(names)}))
    tokenizer = M2M100Tokenizer(vocab_file=str(folder / "vocab.json"), spm_file=str(spm))
    return tokenizer, M2M100Config, M2M100ForConditionalGeneration


def mbart(folder: Path) -> tuple[Any, type, type]:
    from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES

    pieces = [(piece, 0.0) for piece in SPECIALS] + [(piece, -2.0) for piece in LETTERS]
    vocabulary = [*pieces, *((code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES), ("<mask>", 0.0)]
    return MBartTokenizer(vocab=vocabulary), MBartConfig, MBartForConditionalGeneration


def mbart50(folder: Path) -> tuple[Any, type, type]:
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

    pieces = [(piece, 0.0) for piece in SPECIALS] + [(piece, -2.0) for piece in LETTERS]
    vocabulary = [*pieces, *((code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES), ("<mask>", 0.0)]
    return MBart50Tokenizer(vocab=vocabulary), MBartConfig, MBartForConditionalGeneration


def marian(folder: Path) -> tuple[Any, type, type]:
    spm, pieces = _sentencepiece(folder)
    names = dict.fromkeys(
        [
            "</s>",
            "<unk>",
            *pieces,
            ">>fra<<",
            ">>deu<<",
            ">>cmn_Hans<<",
            ">>cmn_Hant<<",
            ">>pt_br<<",
            "<pad>",
        ]
    )
    (folder / "vocab.json").write_text(json.dumps({piece: id_ for id_, piece in enumerate(names)}))
    tokenizer = MarianTokenizer(
        source_spm=str(spm), target_spm=str(spm), vocab=str(folder / "vocab.json")
    )
    return tokenizer, MarianConfig, MarianMTModel


MAKERS = {maker.__name__: maker for maker in (nllb, nllb_legacy, m2m100, mbart, mbart50, marian)}


def make(name: str, folder: Path) -> tuple[PreTrainedModel, Any]:
    """Saves the model `name` of MAKERS; returns transformers' model and tokenizer."""
    tokenizer, config_class, model_class = MAKERS[name](folder)
    torch.manual_seed(5)
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    config = config_class(
        **{**tiny_models.BART_SHAPE, "vocab_size": len(tokenizer) + 110},
        scale_embedding=True,
        decoder_start_token_id=pad if name == "marian" else end,
        pad_token_id=pad,
        eos_token_id=end,
        bos_token_id=0,
        forced_eos_token_id=None,
    )
    model = model_class(config).eval()
    tiny_models.liven_text_model(model)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id,
        eos_token_id=end,
        pad_token_id=pad,
        max_length=20,
        suppress_tokens=[pad],
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer
