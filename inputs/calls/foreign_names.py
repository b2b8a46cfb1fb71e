"""Names that other tools' transcribe() has. They are refused by name and reason, never dropped."""

_NO_BEAMS = "beam search is not there yet"
_NO_WORD_TIMES = "there are no word timestamps yet"
_PROGRESS = "give progress=, a function of the seconds done and the seconds in all"

FOREIGN_NAMES = {
    "append_punctuations": _NO_WORD_TIMES,
    "batch_size": "all windows of all recordings are batched together: "
    "see the engine option max_num_seqs",
    "beam_size": f"{_NO_BEAMS}; temperature= samples",
    "chunk_length": "give chunk_seconds=",
    "chunk_length_s": "give chunk_seconds=",
    "compute_type": "give dtype= or quantization= to the engine",
    "file": "give the sound as the first argument",
    "fp16": "give dtype= to the engine",
    "generate_kwargs": "give language=, task= and params=SamplingParams(...)",
    "hallucination_silence_threshold": f"{_NO_WORD_TIMES}; digital silence alone is left out",
    "lang": "give language=",
    "length_penalty": _NO_BEAMS,
    "log_progress": _PROGRESS,
    "logprobs": "give params=SamplingParams(logprobs=...)",
    "max_new_tokens": "give params=SamplingParams(max_tokens=...)",
    "max_tokens": "give params=SamplingParams(max_tokens=...)",
    "n": "transcribe() gives one text; call generate() for n samples",
    "no_repeat_ngram_size": "it comes from the checkpoint's generation config",
    "num_beams": _NO_BEAMS,
    "output_format": "the command `antiphon transcribe` writes files; here the result is an object",
    "patience": _NO_BEAMS,
    "prepend_punctuations": _NO_WORD_TIMES,
    "prompt": "give initial_prompt=",
    "prompt_ids": "give initial_prompt=",
    "repetition_penalty": "give params=SamplingParams(repetition_penalty=...)",
    "response_format": "the result is an object: text, segments, language, duration",
    "return_timestamps": "give timestamps=True or False",
    "sampling_rate": "give the sound as (samples, rate)",
    "seed": "give params=SamplingParams(seed=...)",
    "source_language": "give language=",
    "stream": "transcribe() returns when the recording is done",
    "target_language": "Whisper translates into English alone: task='translate'",
    "timestamp_granularities": f"give timestamps=True for segments; {_NO_WORD_TIMES}",
    "top_k": "give params=SamplingParams(top_k=...)",
    "top_p": "give params=SamplingParams(top_p=...)",
    "use_tqdm": _PROGRESS,
    "verbose": "the engine logs under the name 'antiphon'; "
    "progress= is called with the seconds done",
    "word_timestamps": f"{_NO_WORD_TIMES}, segments have theirs",
}
