"""Images in the forms that callers have them, and the arrays that encoders take."""
