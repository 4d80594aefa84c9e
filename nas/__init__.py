"""Neural architecture search for prompt-based multimodal fusion (PMF)."""
