"""Other tools' interfaces over this engine, so that a script changes one import."""
