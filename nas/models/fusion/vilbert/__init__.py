"""ViLBERT."""
