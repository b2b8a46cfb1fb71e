"""`antiphon bench`: kernels, steps and whole engines, each beside the limit of the machine that it ran on."""
