"""Whether torch can see a GPU here at all, told without importing torch, which takes seconds."""

import ctypes
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from antiphon.config.errors import ConfigurationError

# Of a driver for NVIDIA's cards (by itself or under WSL) or AMD's, whose torch calls them cuda too.
DRIVER_FILES = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
NO_CUDA = (
    "device='cuda' but torch sees no CUDA device here: "
    "use device='cpu' or install a CUDA build of torch"
)


def gpu_is_possible() -> bool:
    """False if torch cannot see a GPU: it was built for CPUs, or there is no driver.
    Where this is True, torch alone knows."""
    try:
        if version("torch").endswith("+cpu"):
            return False
    except PackageNotFoundError:  # torch may come without metadata
        pass
    if sys.platform != "linux" or any(Path(file).exists() for file in DRIVER_FILES):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def check_device(device: str) -> None:
    """Raises ConfigurationError for "cuda" where `gpu_is_possible` says no."""
    if device == "cuda" and not gpu_is_possible():
        raise ConfigurationError(NO_CUDA)
