"""A LayerNorm whose checkpoints store no shift."""

from antiphon.layers.norms import LayerNorm
from antiphon.layers.reading import Read
from antiphon.layers.shard import whole


class UnbiasedLayerNorm(LayerNorm):
    """Its shift is zeros: kernels take a norm without one for an RMS norm."""

    def load(self, path: str, read: Read) -> None:
        """Fills the gain at `path`."""
        assert self.bias is not None
        self.weight.copy_(read(f"{path}.weight", whole(len(self.weight))))
        self.bias.zero_()
