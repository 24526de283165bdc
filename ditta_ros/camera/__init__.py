"""One camera of the node: images in, masks out."""
