"""What a network is made of: layers, sizes, receptive field, latency."""
