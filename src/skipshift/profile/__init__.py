"""Distance between two sets of images in each layer of a network, with its noise floor.

Takes a network and two sets of images, or their fingerprints; gives a `Profile`.
"""
