"""`Checkpoint`: the tensors of a folder by name."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError

from antiphon.config.errors import CheckpointError, UnsupportedModelError
from antiphon.families.quantization.scheme import StoredQuantization
from antiphon.layers.quantization.formats import format_of
from antiphon.layers.reading import Weight
from antiphon.layers.shard import Spans
from antiphon.layers.tensor_files import (
    StoredTensor,
    TensorFile,
    files_by_tensor,
    open_tensors,
)

T = TypeVar("T")
PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Checkpoint:
    """The tensors of a checkpoint folder by name. A tensor is read when `read` asks for it.

    `quantization`: how some of its weights are stored. Such a weight has the name that it would
    have if it were not quantised, whatever its tensors are called. `multiplied_out`: all are given
    as plain numbers.
    """

    def __init__(
        self,
        folder: Path,
        quantization: StoredQuantization | None = None,
        multiplied_out: bool = False,
    ) -> None:
        self.folder, self.multiplied_out = folder, multiplied_out
        self.files = files_by_tensor(folder)
        self.claimed: set[str] = set()  # names that a module asked for, first choice or not
        self.bytes_read = 0
        self._open: dict[str, TensorFile] = {}
        self._format = None if quantization is None else format_of(quantization)

    @property
    def is_quantized(self) -> bool:
        """Weights may come quantised."""
        return self._format is not None and not self.multiplied_out

    def __contains__(self, name: object) -> bool:
        return name in self.files or bool(self._parts(str(name)))

    def is_plain(self, name: str) -> bool:
        """Whether it is a tensor of plain numbers."""
        return name in self.files and not self._parts(name)

    def _parts(self, name: str) -> tuple[str, ...]:
        """The tensors that the quantised weight called `name` is made of, else none."""
        if self._format is None or not name.endswith(".weight"):
            return ()
        return self._format.names(name.removesuffix(".weight"), self.files)

    def claim(self, names: Iterable[str]) -> None:
        """Accounts for tensors that a module holds under any of `names`."""
        for name in names:
            self.claimed.update((name, *self._parts(name)))

    def first_of(self, names: tuple[str, ...]) -> str:
        """The first of `names` that is there; all of them are accounted for. Raises
        CheckpointError where there is none."""
        self.claim(names)
        for name in names:
            if name in self:
                return name
        raise CheckpointError(f"{self.folder} lacks the tensor {names[0]}")

    def weight(self, name: str, spans: Spans) -> Weight:
        """As `read`, of a linear layer's weight: quantised where it is stored so."""
        if self._format is None or not self._parts(name):
            return self.read(name, spans)
        weight = self._format.read(name.removesuffix(".weight"), self, spans)
        if damage := weight.damage():
            raise CheckpointError(f"{name} of {self.folder} has {damage}: the file is damaged")
        return weight.dequantized(torch.float32) if self.multiplied_out else weight

    def read(self, name: str, spans: Spans) -> torch.Tensor:
        """What `spans` say of the tensor called `name`, one span for each of its
        dimensions, as plain numbers. Only that is read.

        Raises CheckpointError for a file that can't be read, or where the shape is not
        that of `spans`; UnsupportedModelError for a format that is not plain numbers.
        """
        if self._parts(name):
            weight = self.weight(name, spans)
            return weight if isinstance(weight, torch.Tensor) else weight.dequantized(torch.float32)
        try:
            tensor = self.block(name, spans)
        except CheckpointError:
            self._check_plain(name, self.tensor(name))  # packed numbers have another shape, too
            raise
        self._check_plain(name, tensor)
        return tensor

    def block(self, name: str, spans: Spans) -> torch.Tensor:
        """As `read`, of the tensor as it is stored, whatever its dtype."""
        stored, file = self._stored(name), self.files[name]
        shape, asked = stored.get_shape(), [span.total for span in spans]
        if [size for size in shape if size != 1] != [size for size in asked if size != 1]:
            raise CheckpointError(
                f"{name} in {self.folder / file} has shape {shape}; config.json asks for {asked}"
            )
        own = tuple(span.slice for span in spans)
        if shape == asked:
            tensor = self._guarded(name, lambda: stored[own])
        else:  # dimensions of one are stored otherwise: such tensors are small
            tensor = self.tensor(name).reshape(asked)[own]
        self.bytes_read += tensor.nbytes
        return tensor

    def _check_plain(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.dtype not in PLAIN:
            raise UnsupportedModelError(
                f"{name} in {self.folder / self.files[name]} is stored as {tensor.dtype}: "
                "quantised, and its config.json (quantization_config) tells no way to read that"
            )

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor called `name`, as it is stored. Raises CheckpointError as `read`."""
        return self._guarded(name, lambda: self._file(name).get_tensor(name))

    def _stored(self, name: str) -> StoredTensor:
        return self._guarded(name, lambda: self._file(name).get_slice(name))

    def _file(self, name: str) -> TensorFile:
        if name not in self.files:
            raise CheckpointError(f"{self.folder} lacks the tensor {name}")
        file = self.files[name]
        if file not in self._open:
            self._open[file] = open_tensors(self.folder / file)
        return self._open[file]

    def _guarded(self, name: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except (SafetensorError, OSError, KeyError) as error:
            raise CheckpointError(
                f"cannot read {name} from {self.folder / self.files[name]}: {error}"
            ) from None
