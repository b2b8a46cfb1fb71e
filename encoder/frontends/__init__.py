"""Frontends of encoders, one file per kind of input: raw arrays in, embedded tokens out."""
