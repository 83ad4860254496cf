"""Activation patching: feed one skip the source domain's features and measure the recovered IoU.

Takes a network and two sets of images with masks; gives a table with one row per path.
"""
