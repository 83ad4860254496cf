"""Distance between two sets of images in each layer of a network, beside its noise floor.

Takes a network and two sets of images, or fingerprints of them; gives a `Profile`.
"""
