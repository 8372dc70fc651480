"""Data sets in folders of image files: where the images are, and how a file becomes pixels."""
