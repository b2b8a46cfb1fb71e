"""The synchronous engine and the command line."""
