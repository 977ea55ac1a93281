"""A page on this machine that names the expressions in pictures which people give it."""
