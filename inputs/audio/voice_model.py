"""silero-vad's network for 16 kHz, with the weights that its package ships.

The package itself is not imported: importing it sets the number of torch's threads. Of its files,
silero_vad.jit has the weights of its version; silero_vad_16k.safetensors those of an older one.
Frames go through the convolutions in batches, and through the LSTM in one call for each batch.
"""

import importlib.util
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import ThreadpoolController
from torch import nn

from antiphon.config.errors import ConfigurationError
from antiphon.inputs.audio.voice_activity import FRAME

CONTEXT = 64  # samples before a frame that are heard with it
BATCH = 2048  # frames, 65 s
WIDTH, STEP, BINS = 256, 128, 129  # samples of a spectrum, and between two; frequencies of each
SPECTRA = 4  # of a frame
STRIDES = (1, 2, 2, 1)  # of the convolutions over spectra
HIDDEN = 128
State = tuple[torch.Tensor, torch.Tensor] | None
Layer = tuple[torch.Tensor, torch.Tensor]  # its matrix and bias
WEIGHTS = {
    "spectra.weight": "_model.stft.forward_basis_buffer",
    **{
        f"layers.{number}.{kind}": f"_model.encoder.{number}.reparam_conv.{kind}"
        for number in range(len(STRIDES))
        for kind in ("weight", "bias")
    },
    **{
        f"lstm.{kind}_{part}_l0": f"_model.decoder.rnn.{kind}_{part}"
        for kind in ("weight", "bias")
        for part in ("ih", "hh")
    },
    "last.weight": "_model.decoder.decoder.2.weight",
    "last.bias": "_model.decoder.decoder.2.bias",
}


class VoiceModel(nn.Module):
    """Of a frame come four spectra, and each convolution goes over them. There are so few of them
    that a convolution is one matrix product over all their channels."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        """`weights`: as the package's network names them."""
        super().__init__()
        named = {own: weights[theirs] for own, theirs in WEIGHTS.items()}
        self._spectra = named["spectra.weight"][:, 0].t().contiguous()  # [WIDTH, 2 * BINS]
        self._layers: list[Layer] = []
        steps = SPECTRA
        for number, stride in enumerate(STRIDES):
            weight, bias = (named[f"layers.{number}.{kind}"] for kind in ("weight", "bias"))
            matrix = _as_matrix(weight, stride, steps)
            steps = -(-steps // stride)
            self._layers.append((matrix, bias.repeat(steps)))
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
        self.last = nn.Conv1d(HIDDEN, 1, 1)
        self.load_state_dict({name: named[name] for name in self.state_dict()})
        self.eval()

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        """Of speech in each frame of `samples` [n]: [frames]. The last frame is filled with
        silence."""
        frames = -(-len(samples) // FRAME)
        padded = np.zeros(CONTEXT + frames * FRAME, np.float32)
        padded[CONTEXT : CONTEXT + len(samples)] = samples
        return self.judged(padded, None)[0]

    @torch.inference_mode()
    def judged(self, sound: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Of `sound` [CONTEXT + frames * FRAME], float32, the probabilities [frames], and the state
        of the LSTM behind it. `state`: of the LSTM before it; None: nothing was before."""
        if len(sound) < CONTEXT + FRAME:
            return np.zeros(0, np.float32), state
        windows = torch.from_numpy(sound).unfold(0, CONTEXT + FRAME, FRAME)
        parts = []
        for batch in windows.split(BATCH):
            features = self._features(batch)[None]
            with _one_thread():
                hidden, state = self.lstm(features, state)
            parts.append(self.last(hidden.relu().transpose(1, 2)).sigmoid()[0, 0].numpy())
        return np.concatenate(parts), state

    def _features(self, windows: torch.Tensor) -> torch.Tensor:
        """[frames, CONTEXT + FRAME] samples to [frames, HIDDEN]."""
        heard = F.pad(windows, (0, CONTEXT), mode="reflect").unfold(1, WIDTH, STEP)
        spectra = heard.reshape(-1, WIDTH) @ self._spectra
        amplitudes = (spectra[:, :BINS] ** 2 + spectra[:, BINS:] ** 2).sqrt()
        hidden = amplitudes.view(len(windows), SPECTRA * BINS)
        for matrix, bias in self._layers:
            hidden = torch.addmm(bias, hidden, matrix).relu_()
        return hidden


def _as_matrix(weight: torch.Tensor, stride: int, steps: int) -> torch.Tensor:
    """A convolution's weight [outputs, inputs, 3], over `steps` steps with one of silence at both
    ends, as a matrix [steps * inputs, steps behind it * outputs]."""
    outputs, inputs, width = weight.shape
    behind = -(-steps // stride)
    matrix = weight.new_zeros(steps, inputs, behind, outputs)
    for new in range(behind):
        for tap in range(width):
            if 0 <= (old := new * stride + tap - 1) < steps:
                matrix[old, :, new] = weight[:, :, tap].t()
    return matrix.view(steps * inputs, behind * outputs)


def _one_thread() -> AbstractContextManager[object]:
    """In which torch's operators, in this thread, use no other: the LSTM's steps of some
    microseconds would wait for each other's threads, for longer than they take."""
    torch.get_num_threads()  # torch sets a thread's limit when that first computes
    return _openmp().limit(limits=1)


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")


class VoiceStream:
    """One stream's sound, which comes in pieces: their probabilities are those of the whole."""

    def __init__(self, model: VoiceModel) -> None:
        self._model = model
        self._sound = np.zeros(CONTEXT, np.float32)  # the context of the next frame, and its begin
        self._state: State = None

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Probabilities of speech in the frames that are whole now: [frames]."""
        sound = np.concatenate([self._sound, samples], dtype=np.float32)
        whole = (len(sound) - CONTEXT) // FRAME * FRAME
        self._sound = sound[whole:].copy()
        probabilities, self._state = self._model.judged(sound[: CONTEXT + whole], self._state)
        return probabilities


@cache
def load_voice_model() -> VoiceModel:
    """Raises ConfigurationError where silero-vad is not installed."""
    package = importlib.util.find_spec("silero_vad")
    if package is None or not package.submodule_search_locations:
        raise ConfigurationError(
            "finding speech needs silero-vad, which is not installed: pip install silero-vad"
        )
    file = Path(package.submodule_search_locations[0]) / "data" / "silero_vad.jit"
    # torch's DeprecationWarning (TorchScript is old) stays: filters of warnings are of all threads.
    return VoiceModel(torch.jit.load(file, map_location="cpu").state_dict())
