"""What is learned offline, from recorded drives: a driver, one recipe a method, and the pieces that recipes share."""
