"""Preflight checks of a manifest: faults, duplicates, and domains that differ like a bug.

Takes a manifest. Gives findings, errors or warnings, that name the files and the way out. Each
detector is a module with ``measure_...`` for one image and ``judge_...`` for groups of images.
"""
