"""Converters of public data sets, and of any folders, to a manifest: one module per format.

Input: files as they are distributed. Output: PNG images and masks with one manifest.
"""
