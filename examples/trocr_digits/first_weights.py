"""First weights with which a vision transformer looks around: each head sees one neighbor of every
patch. Found by training alone, it takes most of the time that a small model learns."""

import torch
from transformers import ViTModel

NEIGHBORS = ((0, -1), (0, 1), (-1, 0), (1, 0))  # rows down and columns to the right
SHARPNESS = 2.0


def look_around(encoder: ViTModel) -> None:
    """Positions become sines and cosines of row and column, at several frequencies. Queries ask for
    the waves of a neighbor, keys have those of their own place: their product is largest there."""
    config, embeddings = encoder.config, encoder.embeddings
    side = config.patch_size
    rows, columns = (size // side for size in config.image_size)
    waves = config.hidden_size // 4  # of rows, and as many of columns
    frequencies = 2.0 ** torch.linspace(1.5, -2.5, waves)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * frequencies for axis in (y, x)], 1)
    embeddings.position_embeddings.data[0, 1:] = torch.cat([angles.sin(), angles.cos()], 1)
    size = config.hidden_size // config.num_attention_heads
    count = size // 2
    seen = torch.arange(count) * (2 * waves // count)  # the waves that a head compares
    sines, cosines = torch.zeros(2, count, config.hidden_size)
    sines[range(count), seen] = cosines[range(count), seen + 2 * waves] = SHARPNESS
    for layer in encoder.layers:
        queries, keys = (
            projection.weight.data.unflatten(0, (-1, size))
            for projection in (layer.attention.q_proj, layer.attention.k_proj)
        )
        for head, (down, right) in enumerate(NEIGHBORS):
            turn = torch.cat([down * frequencies, right * frequencies])[seen, None]
            queries[head] += torch.cat(
                [
                    sines * turn.cos() + cosines * turn.sin(),
                    cosines * turn.cos() - sines * turn.sin(),
                ]
            )
            keys[head] += torch.cat([sines, cosines])
