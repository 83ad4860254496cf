"""Remedies: changes at one place of a network that bring back the IoU lost to a shift.

Takes a network and two sets of images; gives a table of remedies, and a mended network.
"""
