"""The layers that models are built of, and the loading of their weights.

Knows nothing of requests, pages or Ray.
"""
