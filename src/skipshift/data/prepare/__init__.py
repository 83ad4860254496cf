"""Readers that turn a public set, or any folders, into a manifest: one module a format.

Takes files as their owners keep them; gives images and masks as PNG with one manifest beside them.
"""
