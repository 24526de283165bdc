"""The methods of adaptation to recorded drives, each a file."""
