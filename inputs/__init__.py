"""From what a caller gives to what the engine schedules. Knows nothing of Ray or scheduling.

processor     a prompt and its parameters, checked, as samples or token ids
prompts       the forms that a prompt may have
audio/        recordings to samples
languages/    names and codes of languages
translation   how translation models name languages in their prompts
whisper/      Whisper's prompt format and timestamps
calls/        keywords of generate(), transcribe() and the rest
detokenizer   generated tokens back to text, piece by piece
"""
