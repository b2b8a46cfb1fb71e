"""How an encoder finds memory of a decoder by NIXL."""

import msgspec


class NixlHandle(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """`metadata`: of the agent that has registered it. `address`: of its first byte. `kind`: VRAM
    of the GPU with number `gpu` in the decoder's process, or DRAM."""

    metadata: bytes
    address: int
    kind: str
    gpu: int
