"""What the machine gives: devices, pinned transfers, CUDA graphs, threads."""
