"""What the runner needs of an encoder, whatever its structure."""

from torch import nn


class EncoderModel(nn.Module):
    """`forward` takes packed token ids and positions (text) or spectrograms (audio), an attention backend and its plan."""

    layers: nn.ModuleList
