"""Counts, distances and scores, and how sure they are; no files, no networks.

Takes arrays of counts or features with a group label each; gives estimates, intervals and p-values.
"""
