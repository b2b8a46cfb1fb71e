"""Load on a running server: any with OpenAI's API, as its clients see it."""
