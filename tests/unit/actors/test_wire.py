"""Messages as frames, and back."""
