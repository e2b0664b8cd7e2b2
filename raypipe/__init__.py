"""raypipe: product attributes for millions of listings from a vision-language model you trained."""

__version__ = "0.1.0"
