"""Ways of hidden states from an encoder worker to a decoder worker, one file each.

the decoder is                                        way
in the encoder's process                              same_process  an object, before it is
                                                                    computed
on its node, its arena mapped by the encoder          mapped        rows of the arena: shared
                                                                    memory of CPUs, CUDA IPC of
                                                                    GPUs
anywhere, where NIXL is asked for                      nixl          rows of the arena
anywhere else, or it has asked for no place           frames        bytes over the channel, by
                                                                    way of the host
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
    """The best way from `device` to a decoder for states without a place, by `send`,
    which must not block."""
    return SameProcess(send) if in_this_process else Frames(send, device)
