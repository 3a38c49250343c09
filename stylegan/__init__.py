"""StyleGAN2 for brain MRI slices: from raw files to clear pictures and honest scores."""

__version__ = "0.1.0"
