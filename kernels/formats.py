"""Number formats and sizes that layers, sampling and kernels must agree on."""

import torch

FLOAT8 = torch.float8_e4m3fn  # Micikevicius et al. 2022
FLOAT8_MAX = 448.0  # numbers beyond it must be clamped: they would become NaN
FLOAT8_CAPABILITY = (8, 9)  # of CUDA devices: from Ada on, hardware converts and multiplies
# An encoder's attention in float8: tokens of a sequence and head that share a scale, and what
# weights of a softmax are multiplied by before they are rounded.
FLOAT8_BLOCK, FLOAT8_WEIGHTS = 64, 256.0
INT8 = torch.int8
INT8_MAX = 127.0  # -128 is left out: scales have no sign
LARGEST = {FLOAT8: FLOAT8_MAX, INT8: INT8_MAX}
SMALLEST_SCALE = 1e-12  # of a row: also a row of zeros has a scale

ROW_COPY_DTYPES = (torch.float16, torch.bfloat16, torch.float32)  # that its kernel writes

# Most rows of the linear kernel for small batches; above, cuBLAS is faster.
SMALL_BATCH = 4
OUTPUTS_TOGETHER = 4  # outputs of one program of that kernel

# What a rank says of a row of logits, where ranks share the vocabulary: so many float32. First the
# log-sum-exp of its raw logits, and the raw logit of the token that the model prescribes here; from
# TEXT and TIME on four each of its best text and timestamp (`decoder/sampling/partial_choice.py :
# Best`). Minus infinity stands for what a rank does not have.
ROW_NUMBERS = 10
RAW_SUM, PRESCRIBED, TEXT, TIME = 0, 1, 2, 6
# Likewise of a row that is read out (`decoder/readouts.py`): log-sum-exp, the logit of the token
# that is asked for, the largest logit and its token.
READOUT_NUMBERS = 4
