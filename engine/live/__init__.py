"""Text of sound that is still being spoken."""
