"""Activation patching: how much of the lost IoU returns when one path gets the source's features.

Takes a network and two sets of images with masks; gives a table with a row a path.
"""
