"""Triton, Numba and CUDA kernels over plain tensors. Nothing of ours is imported here but `config`."""
