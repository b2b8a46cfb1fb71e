"""The synchronous engine, the command line (cli/) and the benchmarks (bench/)."""
