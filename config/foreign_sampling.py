"""Sampling parameters of other tools, and what to do instead of giving them here."""

from antiphon.config.foreign import NotHonored

_STRUCTURED = (
    "constrained decoding is not there yet; allowed_token_ids and logit_bias restrict single tokens"
)
_ONE_GROUP = "all beams are in one group"
NOT_HONORED: NotHonored = {
    "best_of": ((1,), "give beam_size, of which the n best are returned"),
    "use_beam_search": ((False,), "give beam_size, the number of beams"),
    "num_beams": ((1,), "it is called beam_size here"),
    "beam_width": ((1,), "it is called beam_size here"),
    "num_beam_groups": ((1,), _ONE_GROUP),
    "diversity_penalty": ((0.0,), _ONE_GROUP),
    "do_sample": ((), "set temperature instead: 0 is greedy, above 0 draws"),
    "max_new_tokens": ((), "it is called max_tokens here"),
    "max_completion_tokens": ((), "it is called max_tokens here"),
    "max_length": ((), "give max_tokens, which counts generated tokens alone"),
    "min_new_tokens": ((), "it is called min_tokens here"),
    "min_length": ((), "give min_tokens, which counts generated tokens alone"),
    "num_return_sequences": ((1,), "it is called n here"),
    "stop_strings": ((), "it is called stop here"),
    "eos_token_id": ((), "give stop_token_ids"),
    "suppress_tokens": ((), "give logit_bias with -100 for each token"),
    "bad_words": (
        ((), []),
        "only the checkpoint's bad_words_ids are obeyed; logit_bias bars single tokens",
    ),
    "bad_words_ids": (
        ((), []),
        "only the checkpoint's own are obeyed; logit_bias bars single tokens",
    ),
    "encoder_no_repeat_ngram_size": ((0,), "it is not there yet"),
    "typical_p": ((1.0,), "give top_p or min_p"),
    "epsilon_cutoff": ((0.0,), "give min_p"),
    "eta_cutoff": ((0.0,), "give min_p"),
    "top_a": ((0.0,), "give min_p"),
    "prompt_logprobs": (
        (),
        "log-probabilities of prompt tokens are not there yet; logprobs gives those of the output",
    ),
    "top_logprobs": ((), "give logprobs, the number of likeliest tokens to return"),
    "echo": ((False,), "the output never repeats the prompt"),
    "suffix": ((), "these models fill no gaps"),
    "detokenize": ((True,), "text is always made; token ids come with it"),
    "spaces_between_special_tokens": ((True,), "the tokenizer decides about blanks"),
    "truncate_prompt_tokens": ((), "a prompt that is too long is refused: shorten or split it"),
    "structured_outputs": ((), _STRUCTURED),
    "guided_decoding": ((), _STRUCTURED),
    "guided_json": ((), _STRUCTURED),
    "guided_regex": ((), _STRUCTURED),
    "guided_choice": ((), _STRUCTURED),
    "guided_grammar": ((), _STRUCTURED),
    "response_format": ((), _STRUCTURED),
    "grammar": ((), _STRUCTURED),
    "logits_processors": (
        (),
        "Python functions can't run in the sampler; logit_bias and allowed_token_ids can",
    ),
    "extra_args": (({},), "no plug-in takes any"),
    "output_kind": ((), "stream() gives what is new, generate() the whole"),
    "compression_ratio_threshold": ((), "it is an option of transcribe()"),
    "no_speech_threshold": ((), "it is an option of transcribe()"),
    "word_timestamps": ((False,), "words have no times yet"),
    "initial_prompt": ((), "it is an option of transcribe()"),
    "hotwords": ((), "they are an option of transcribe()"),
}
