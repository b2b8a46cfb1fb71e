"""float8 weights as Hugging Face stores them: with scales of blocks, or of outputs (fbgemm)."""

from collections.abc import Container

from antiphon.config.errors import CheckpointError
from antiphon.kernels.formats import FLOAT8
from antiphon.layers.quantization.formats.interface import Format, Tensors, existing
from antiphon.layers.quantization.formats.scales import by_output, own_group_of
from antiphon.layers.quantization.quantized_weight import QuantizedInput, QuantizedWeight
from antiphon.layers.shard import Spans

SCALES = ("weight_scale_inv", "weight_scale")  # both are multiplied by, whatever they are called
INPUTS = ("activation_scale", "input_scale", "input_scale_ub")


class FP8(Format):
    def names(self, layer: str, tensors: Container[str]) -> tuple[str, ...]:
        scales = existing(layer, SCALES, tensors)[:1]
        return (f"{layer}.weight", *scales, *existing(layer, INPUTS, tensors)) if scales else ()

    def read(self, layer: str, tensors: Tensors, spans: Spans) -> QuantizedWeight:
        scheme = self.quantization.scheme_of(layer)
        values = tensors.block(f"{layer}.weight", spans)
        if values.dtype != FLOAT8:
            raise CheckpointError(
                f"{layer}.weight is stored as {values.dtype}, and quantization_config says {FLOAT8}"
            )
        name, *_ = existing(layer, SCALES, tensors)
        block = scheme.weights.block
        scales = by_output(name, tensors.tensor(name).float(), block, spans)
        static = existing(layer, INPUTS[:2], tensors)
        scale = None
        if scheme.inputs is not None and not scheme.inputs.dynamic:
            if not static:
                raise CheckpointError(f"the checkpoint lacks {layer}.{INPUTS[0]}")
            scale = tensors.tensor(static[0]).reshape(1).float()
        inputs = None if scheme.inputs is None else QuantizedInput(scheme.inputs, scale)
        group_of = own_group_of(spans[1], block[1])
        return QuantizedWeight(values, scales, None, block[1], group_of, inputs=inputs)
