"""The HTTP service: OpenAI's API over engines, in one process or as a Ray Serve deployment."""
