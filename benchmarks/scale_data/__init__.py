"""Generated data sets of the size of real ones: tiny pictures, tiny encoders, files exactly as they are distributed."""
