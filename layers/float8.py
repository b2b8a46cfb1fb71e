"""What the whole engine knows of 8-bit floating point (Micikevicius et al. 2022): the format, its range, and who computes with it."""

import torch

FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = 448.0  # the largest number; what lies beyond must be clamped, it would become NaN
FLOAT8_CAPABILITY = (8, 9)  # of CUDA devices: Ada, where conversions and products in hardware begin
