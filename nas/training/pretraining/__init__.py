"""Pretrain a model on pairs of image and text, before its classifier is trained."""
