"""Triton and Numba kernels over plain tensors, which import nothing of ours but `config`."""
