"""What a network learns by its own labels, from recorded drives and warm-ups: a driver, one recipe a method."""
