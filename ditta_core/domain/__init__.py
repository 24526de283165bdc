"""What the whole network learns by its own labels, from recorded drives and from a warm-up: a driver, one recipe a method."""
