"""Whole-slide images: pixels at any scale, annotations, and registrations between two scans.

Takes slide files and annotation files. Gives pixel arrays, polygons and points in pixels of full
resolution, and maps from the coordinates of one scan to those of another.
"""
