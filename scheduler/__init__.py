"""Requests, their states, batching, admission, preemption, encoder work and routing.
Plain Python and numpy: no torch, no Ray."""
