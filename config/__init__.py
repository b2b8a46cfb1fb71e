"""Plain values that every other package reads. No torch, no Ray.

errors               every error that Antiphon raises on purpose
options              the engine's options, checked
foreign*             names and values that other tools have: ours for the same, or why there is none
locate               where a checkpoint is: a folder, a hub id or a size
sampling             SamplingParams, what a caller may ask of decoding
decoding_rules       what a checkpoint demands of decoding
generation           a checkpoint's generation settings, and how parameters go with them
"""
