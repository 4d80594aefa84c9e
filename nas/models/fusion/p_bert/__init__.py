"""P-BERT."""
