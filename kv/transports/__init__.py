"""Ways of hidden states from an encoder worker to a decoder worker, one file each.

same_process    an object, before it is computed; the decoder's stream waits on the device
frames          bytes over the channel: between processes and nodes, by way of the host
"""

from collections.abc import Callable

import torch

from antiphon.kv.handoff import HiddenStates
from antiphon.kv.transports.frames import Frames
from antiphon.kv.transports.interface import Transport
from antiphon.kv.transports.same_process import SameProcess


def transport_to(
    in_this_process: bool, send: Callable[[HiddenStates], None], device: torch.device
) -> Transport:
    """The best way from `device` to a decoder, by `send`, which must not block."""
    return SameProcess(send) if in_this_process else Frames(send, device)
