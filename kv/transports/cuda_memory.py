"""Memory of a GPU that other processes of the node map: CUDA IPC, through CUDA's driver API.

A process needs to see only its own GPU. What it maps of another one gets an address in
its own memory, and its kernels write there over the link between the two
(`cuIpcOpenMemHandle`, CUDA driver API reference, memory management). torch's own way
(`torch.multiprocessing`) also exports an event and a counter in shared memory, whose
lives depend on both processes: neither is needed here.
"""

import ctypes
from functools import cache
from typing import Any

import msgspec
import torch

from antiphon.kv.transports.mapping import MappingError

HANDLE_BYTES = 64
LAZY_PEER_ACCESS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS


class CudaHandle(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """`handle`: of a whole allocation. `offset`: bytes to what is meant."""

    handle: bytes
    offset: int


class _IpcHandle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_ubyte * HANDLE_BYTES),)


@cache
def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise MappingError(f"CUDA's driver cannot be called: {error}") from error


def _call(name: str, *arguments: Any) -> None:
    """Calls a function of the driver, in the context of the current device. A thread
    has none before its first call of CUDA's runtime, such as the one here, which does
    not wait."""
    torch.cuda.mem_get_info()
    status = getattr(_driver(), name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        reason = text.value.decode() if text.value else "unknown error"
        raise MappingError(f"{name} failed: {reason} (CUDA error {status})")


def export_memory(tensor: torch.Tensor) -> CudaHandle:
    """For other processes. All work on `tensor` that was queued until now is done when
    this returns. It must not be freed while its process lives. Raises MappingError, for
    one if it lies in expandable segments of torch's allocator."""
    with torch.cuda.device(tensor.device):
        torch.cuda.synchronize()
        base, size = ctypes.c_uint64(), ctypes.c_size_t()
        address = ctypes.c_uint64(tensor.data_ptr())
        _call("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), address)
        handle = _IpcHandle()
        _call("cuIpcGetMemHandle", ctypes.byref(handle), base)
    return CudaHandle(bytes(handle.reserved), tensor.data_ptr() - base.value)


class CudaMapping:
    """Memory of another process. `address`: as kernels on `device` write it."""

    def __init__(self, handle: CudaHandle, device: torch.device) -> None:
        """Raises MappingError, for one where `device` cannot reach the GPU that has the memory."""
        self._device = device
        self._base = ctypes.c_uint64()
        opened = _IpcHandle()
        ctypes.memmove(ctypes.byref(opened), handle.handle, HANDLE_BYTES)
        with torch.cuda.device(device):
            _call(
                "cuIpcOpenMemHandle_v2",
                ctypes.byref(self._base),
                opened,
                ctypes.c_uint(LAZY_PEER_ACCESS),
            )
        self.address = self._base.value + handle.offset

    def close(self) -> None:
        """No kernel may be writing there any more."""
        with torch.cuda.device(self._device):
            _call("cuIpcCloseMemHandle", self._base)
