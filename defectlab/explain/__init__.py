"""Explain a network: filters, feature maps, attributions, units, embedding; and evaluate the attributions."""
