"""Names that other tools' transcribe() has. They are refused by name and reason, never dropped."""

_BEAMS = "give params=SamplingParams(beam_size=...)"
_NO_FALLBACK = "no fallback yet; segments have their avg_logprob"
_NO_EARLIER_TEXT = "text before the window is not there yet; generate() takes a decoder prompt"
_NO_VOICE_ACTIVITY = "voice activity is not detected yet; digital silence alone is left out"
_NO_WORD_TIMES = "there are no word timestamps yet"
_PROGRESS = "give progress=, a function of the seconds done and the seconds in all"
_INDEPENDENT = "windows are decoded independently of each other"

FOREIGN_NAMES = {
    "append_punctuations": _NO_WORD_TIMES,
    "batch_size": "all windows of all recordings are batched together: "
    "see the engine option max_num_seqs",
    "beam_size": _BEAMS,
    "best_of": "several samples are not compared; call generate() with n samples",
    "carry_initial_prompt": _NO_EARLIER_TEXT,
    "chunk_length": "give chunk_seconds=",
    "chunk_length_s": "give chunk_seconds=",
    "clip_timestamps": "cut the samples and give the pieces",
    "compression_ratio_threshold": "there is no fallback to higher temperatures yet",
    "compute_type": "give dtype= or quantization= to the engine",
    "condition_on_previous_text": _INDEPENDENT,
    "file": "give the sound as the first argument",
    "fp16": "give dtype= to the engine",
    "generate_kwargs": "give language=, task= and params=SamplingParams(...)",
    "hallucination_silence_threshold": f"{_NO_WORD_TIMES}; digital silence alone is left out",
    "hotwords": _NO_EARLIER_TEXT,
    "initial_prompt": _NO_EARLIER_TEXT,
    "lang": "give language=",
    "language_detection_segments": "the first window with sound decides",
    "language_detection_threshold": "the first window with sound decides; "
    "see language_probability of the result",
    "length_penalty": "give params=SamplingParams(beam_size=..., length_penalty=...)",
    "log_prob_threshold": _NO_FALLBACK,
    "log_progress": _PROGRESS,
    "logprob_threshold": _NO_FALLBACK,
    "logprobs": "give params=SamplingParams(logprobs=...)",
    "max_initial_timestamp": "the checkpoint's generation config has it",
    "max_new_tokens": "give params=SamplingParams(max_tokens=...)",
    "max_tokens": "give params=SamplingParams(max_tokens=...)",
    "multilingual": "one language for a recording: cut it and give the pieces",
    "n": "transcribe() gives one text; call generate() for n samples",
    "no_repeat_ngram_size": "give params=SamplingParams(no_repeat_ngram_size=...)",
    "no_speech_threshold": "segments have their no_speech_prob; digital silence alone is left out",
    "num_beams": _BEAMS,
    "output_format": "the command `antiphon transcribe` writes files; here the result is an object",
    "patience": "give params=SamplingParams(beam_size=..., patience=...)",
    "prefix": "generate() takes a decoder prompt",
    "prepend_punctuations": _NO_WORD_TIMES,
    "prompt": _NO_EARLIER_TEXT,
    "prompt_ids": _NO_EARLIER_TEXT,
    "prompt_reset_on_temperature": _INDEPENDENT,
    "repetition_penalty": "give params=SamplingParams(repetition_penalty=...)",
    "response_format": "the result is an object: text, segments, language, duration",
    "return_timestamps": "give timestamps=True or False",
    "sampling_rate": "give the sound as (samples, rate)",
    "seed": "give params=SamplingParams(seed=...)",
    "source_language": "give language=",
    "stream": "transcribe() returns when the recording is done",
    "suppress_blank": "the checkpoint's begin_suppress_tokens are obeyed",
    "suppress_tokens": "the checkpoint's are used; params=SamplingParams(logit_bias=...) adds "
    "to them",
    "target_language": "Whisper translates into English alone: task='translate'",
    "temperature": "give params=SamplingParams(temperature=...)",
    "timestamp_granularities": f"give timestamps=True for segments; {_NO_WORD_TIMES}",
    "top_k": "give params=SamplingParams(top_k=...)",
    "top_p": "give params=SamplingParams(top_p=...)",
    "use_tqdm": _PROGRESS,
    "vad_filter": _NO_VOICE_ACTIVITY,
    "vad_parameters": _NO_VOICE_ACTIVITY,
    "verbose": "the engine logs under the name 'antiphon'; "
    "progress= is called with the seconds done",
    "without_timestamps": "give timestamps=False",
    "word_timestamps": f"{_NO_WORD_TIMES}, segments have theirs",
}
