"""Names and codes of languages, in any spelling."""
