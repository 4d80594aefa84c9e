"""Deep prompts in the branches of a pretrained dual encoder, which several families share."""
