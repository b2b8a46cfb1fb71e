"""Audio and text on their way in: decoding, features, tokenisation, prompt formats. Knows nothing of Ray or scheduling."""
