"""From the images in memory to a batch: split, statistics, augmentation, loaders."""
