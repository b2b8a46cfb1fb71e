"""The only folder that uses Ray: actors around plain workers, and what connects and places them."""
