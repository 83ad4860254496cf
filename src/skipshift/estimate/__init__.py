"""Estimates without masks: of the IoU with an interval, of class shares, and of single images.

Takes networks and images, and what their profiles tell; gives tables that say what is not known.
"""
