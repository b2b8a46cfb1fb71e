"""From what a caller gives to what the engine schedules. Knows nothing of Ray or scheduling.

processor     a prompt and its parameters, checked, as samples or token ids
prepared      what the processor hands to the engine
prompts       the forms that a prompt may have
audio/        recordings to samples
languages/    names and codes of languages
translation   how translation models name languages in their prompts
whisper/      Whisper's prompt format and timestamps
calls/        keywords of generate(), transcribe() and the rest
tokenizer     the checkpoint's tokenizer
detokenizer   generated tokens back to text, piece by piece
"""
