"""Requests, states, batching, admission, preemption and routing. Plain Python and numpy: no torch, no Ray."""
