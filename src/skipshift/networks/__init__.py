"""The U-net with any set of skips, foreign checkpoints, hooks on any layer, fast inference.

Takes weights and batches of images; gives logits, labels and pooled features of named layers.
"""
