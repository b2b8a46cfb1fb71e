"""One phrase for each sampling parameter: what `--help` and `-s help` print."""

SAMPLING_MEANINGS = {
    "n": "samples of each prompt",
    "temperature": "0 is greedy",
    "top_p": "the likeliest tokens that together have this probability",
    "top_k": "the k likeliest tokens; 0 is off",
    "min_p": "tokens at least this probable, relative to the likeliest",
    "seed": "the same seed gives the same text",
    "max_tokens": "of each output; by default as many as the model's positions allow",
    "min_tokens": "before the output may end",
    "stop": "texts that end the output",
    "stop_token_ids": "token ids that end the output, beside the model's own",
    "include_stop_str_in_output": "keep the stop text in the output",
    "ignore_eos": "go on behind the model's own end",
    "repetition_penalty": "above 1: less of what was written or read before",
    "presence_penalty": "above 0: less of what was written before",
    "frequency_penalty": "above 0: less of what was written before, by how often",
    "logprobs": "log-probabilities of this many tokens at each position",
    "logprob_token_ids": "log-probabilities of these tokens instead",
    "logit_bias": "token id to what is added to its logit",
    "allowed_token_ids": "no other tokens",
    "skip_special_tokens": "leave special tokens out of the text",
}
