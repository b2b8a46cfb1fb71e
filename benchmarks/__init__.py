"""`antiphon bench`: kernels, steps and whole engines, beside the limits of the machine."""
