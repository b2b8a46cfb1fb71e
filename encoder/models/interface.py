"""What the runner needs of an encoder, whatever its structure."""

from abc import abstractmethod

from torch import nn


class EncoderModel(nn.Module):
    """`forward` takes packed token ids and positions (text) or spectrograms (audio), an attention backend and its plan."""

    layers: nn.ModuleList

    @staticmethod
    @abstractmethod
    def checkpoint_names(path: str) -> tuple[str, ...]:
        """Names under which checkpoints hold the tensor at `path`, in order of preference."""
