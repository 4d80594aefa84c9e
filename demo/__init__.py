"""Demonstration task: which folder of the clip-art library a picture and its title belong to."""
