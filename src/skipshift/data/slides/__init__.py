"""Whole slides: pixels at any scale, annotations, and registrations of two scans.

Takes slide files and lists of annotations; gives pixels, polygons, points and maps between scans.
"""
