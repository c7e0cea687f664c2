"""What a frozen network's features are worth: linear and nearest-neighbour probes, and features to look at."""
