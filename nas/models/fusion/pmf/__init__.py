"""PMF: prompt-based multimodal fusion (Li et al., CVPR 2023)."""
