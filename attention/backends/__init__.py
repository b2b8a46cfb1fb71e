"""One file for each attention backend; `attention/registry.py` is their table."""
