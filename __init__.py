"""Antiphon: a serving engine for encoder/decoder models on Ray. Encoders call, decoders respond."""
