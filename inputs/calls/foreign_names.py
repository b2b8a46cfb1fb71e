"""Names that other tools' transcribe() has. They are refused by name and reason, never dropped."""

_PROGRESS = "give progress=, a function of the seconds done and the seconds in all"

FOREIGN_NAMES = {
    "batch_size": "all windows of all recordings are batched together: "
    "see the engine option max_num_seqs",
    "chunk_length": "give chunk_seconds=",
    "chunk_length_s": "give chunk_seconds=",
    "compute_type": "give dtype= or quantization= to the engine",
    "file": "give the sound as the first argument",
    "fp16": "give dtype= to the engine",
    "generate_kwargs": "give language=, task= and params=SamplingParams(...)",
    "lang": "give language=",
    "log_progress": _PROGRESS,
    "logprobs": "give params=SamplingParams(logprobs=...)",
    "max_new_tokens": "give max_tokens=",
    "n": "transcribe() gives one text; call generate() for n samples",
    "num_beams": "give beam_size=",
    "output_format": "the command `antiphon transcribe` writes files; here the result is an object",
    "prompt": "give initial_prompt=",
    "prompt_ids": "give initial_prompt=",
    "repetition_penalty": "give params=SamplingParams(repetition_penalty=...)",
    "response_format": "the result is an object: text, segments, language, duration",
    "return_timestamps": "give timestamps=True or False",
    "sampling_rate": "give the sound as (samples, rate)",
    "seed": "give params=SamplingParams(seed=...)",
    "source_language": "give language=",
    "stream": "call stream_segments(), which gives segments as they are done",
    "target_language": "Whisper translates into English alone: task='translate'",
    "timestamp_granularities": "give timestamps=True for segments, word_timestamps=True for words",
    "top_k": "give params=SamplingParams(top_k=...)",
    "top_p": "give params=SamplingParams(top_p=...)",
    "use_tqdm": _PROGRESS,
    "verbose": "the engine logs under the name 'antiphon'; "
    "progress= is called with the seconds done",
}
