"""Plain values that every other package reads. No torch, no Ray.

errors               every error that Antiphon raises on purpose
options              the engine's options, checked
foreign*             names and values of other tools, and ours for the same
locate               where a checkpoint is: a folder, a hub id or a size
sampling             SamplingParams, what a caller may ask of decoding
decoding_rules       what a checkpoint demands of decoding
generation           a checkpoint's generation settings, and how parameters go with them
"""
