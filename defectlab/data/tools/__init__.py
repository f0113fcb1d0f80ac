"""Preview of the augmentation, and its images as files."""
