"""Parts of the documentation's build: mathematics, reference pages, commands in cells."""
