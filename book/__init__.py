"""The notebooks as a book: run them again, keep their outputs, and turn them into pages and slides that need no network.

Not part of the package sprites_lab; used by `make chapters` and `make refresh`.
"""
