"""One frame: network, temporal branch, smoothing, labels."""
