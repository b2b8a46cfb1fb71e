"""A draft model: a checkpoint with the first layers of another one's decoder."""

from pathlib import Path

from transformers import AutoModelForSpeechSeq2Seq


def first_layers(source: Path, folder: Path, count: int) -> None:
    """Saves the checkpoint in `source` with `count` layers of its decoder in `folder`."""
    model = AutoModelForSpeechSeq2Seq.from_pretrained(source)
    decoder = model.get_decoder()
    decoder.layers = decoder.layers[:count]
    model.config.decoder_layers = count
    model.save_pretrained(folder)
    for name in ("preprocessor_config.json", "tokenizer.json"):
        if (source / name).exists():
            (folder / name).write_bytes((source / name).read_bytes())
