"""Image segmentation models behind one protocol."""
