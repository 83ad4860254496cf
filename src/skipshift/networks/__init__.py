"""Networks: U-nets with any skips, checkpoints, named layers, forward hooks and fast inference.

Takes weights and batches of images; gives logits, labels and pooled features of named layers.
"""
