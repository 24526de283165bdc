"""What is learned live: from a handful of warm-up frames to an adapted decoder."""
