"""From disk or network to a tensor of images: layouts, decoding, arrays, archives, downloads."""
