"""A small CLIP for clip art, trained from packages, on which prompted dual encoders can be tried without a download.

No package has a CLIP checkpoint, so one is trained. The image side is the demo's Vision Transformer, block for block
(`model`); the text side (4 layers, 256 wide) is new. Pictures with titles and keywords come from packages (`sources`);
what is held out in any task of the suite is left out, near copies included (`leaks`). `training` minimises the
contrastive loss, `check` measures the zero-shot accuracy, and `card` writes the model card.

Run: python -m benchmarks.suite.small_clip.make --output DIR [--check]
"""
