"""From nothing to a tensor of images: procedural surfaces and strip."""
