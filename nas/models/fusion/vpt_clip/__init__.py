"""VPT of CLIP."""
