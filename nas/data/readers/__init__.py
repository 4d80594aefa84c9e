"""One reader a form of data sets."""
