"""Counts, scores and distances with their intervals and tests.

Takes arrays of counts or features with a group label for each image; gives estimates, intervals and
p-values. Reads no files and knows no networks.
"""
