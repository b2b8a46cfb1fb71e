"""Keywords of the engine's calls, checked before anything runs."""
