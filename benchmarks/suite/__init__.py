"""Real tasks on which the program is judged: each is built by a script from packages or from a public repository.

`tasks` lists them, `make` builds one, `probe` measures what linear classifiers on frozen encoders reach, and `dinov2`
converts the image encoder for photographs.
"""
