"""Image sets as commands are given them: found by name, looked at, and read as arrays.

Takes folders, manifests and slides; gives images of one size, with the group of each.
"""
