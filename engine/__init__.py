"""What a program uses: the engine, asynchronous and synchronous, and what it returns."""
