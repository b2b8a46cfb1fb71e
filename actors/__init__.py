"""The only place where Ray lives: thin shells over plain objects, and the engine that drives them."""
