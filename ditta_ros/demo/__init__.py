"""The demo: a camera, the node and a recorder as three processes over real DDS, and a report of what came out."""
