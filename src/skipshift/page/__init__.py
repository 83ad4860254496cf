"""The page: figures, sentences and tables from a study folder; none of it knows torch."""
