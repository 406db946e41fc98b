"""The paint box: ramps of (shadow, base, light), hue-shifted by hand, and the outline inks.

Shadows lean towards blue or purple and lights towards yellow, as pixel artists do; no ramp is a random RGB.
"""

RAMPS = {
    # reds, pinks, oranges
    "red": ("8a1c3b", "c8303c", "f0685a"),
    "blush": ("a83a5c", "e0607a", "f8a0a0"),
    "rose": ("b04a80", "e07ab0", "f8b4d0"),
    "wine": ("4c1438", "7c2448", "b0405c"),
    "orange": ("a8441c", "e87828", "f8b050"),
    "coral": ("b8484c", "f0806c", "f8b898"),
    "rust": ("6c2c20", "a04c2c", "cc7c44"),
    # yellows, browns, skins
    "gold": ("a86c1c", "e8b030", "f8e070"),
    "lemon": ("c0982c", "f0d848", "f8f098"),
    "straw": ("a8803c", "d8b868", "f0e0a0"),
    "bread": ("8c5428", "c88c48", "e8bc78"),
    "cream": ("c0a078", "ecd8b0", "f8f0dc"),
    "brown": ("4c2c20", "7c4c30", "a87848"),
    "wood": ("5c3820", "8c5c34", "b88850"),
    "chocolate": ("381c1c", "5c3428", "885840"),
    "skin": ("b87050", "e8a880", "f8d0ac"),
    "tan": ("8c5438", "bc8458", "dcac80"),
    "umber": ("4c2c28", "7c5040", "a47860"),
    # greens
    "leaf": ("286038", "4c9c40", "8ccc58"),
    "green": ("1c6844", "38a850", "78d868"),
    "lime": ("508c28", "8cc838", "c8ec70"),
    "moss": ("3c4c28", "687c38", "98a858"),
    "pine": ("183c38", "286450", "48946c"),
    "mint": ("3c9480", "70ccac", "b0f0d0"),
    # blues, purples
    "teal": ("14545c", "208c8c", "50c4b4"),
    "sky": ("3878b8", "60b0e8", "a4dcf8"),
    "blue": ("243c8c", "3c68d0", "70a0f0"),
    "navy": ("1c2450", "303c7c", "5068ac"),
    "ice": ("78a8c8", "b0dcec", "e4f8fc"),
    "violet": ("442c84", "7048c0", "a480e8"),
    "plum": ("4c2060", "84388c", "b868b8"),
    "lilac": ("8068a8", "b49cd8", "dcccf4"),
    # greys
    "steel": ("545c78", "8c9cb4", "c8d4e0"),
    "iron": ("343848", "5c6478", "8c98a8"),
    "silver": ("888ca0", "bcc4d0", "ecf0f4"),
    "stone": ("58504c", "8c847c", "b8b4a8"),
    "bone": ("a89880", "dcd0b4", "f4f0dc"),
    "snow": ("a0a8c4", "dce0ec", "f8f8fc"),
    "coal": ("1c1c28", "343444", "585c6c"),
    "ash": ("48444c", "706c74", "a09ca0"),
}

INKS = {"ink": "18141c", "midnight": "141838", "sepia": "2c1818", "forest": "102420"}

# Single colours that a grid names by a letter: eyes, teeth, sparks.
FIXED = {"K": "18141c", "W": "fcfcfc", "R": "d82838", "Y": "f8d838", "P": "f090a8", "O": "f08028", "T": "40d0d8"}


def rgb(hexadecimal: str) -> tuple[int, int, int]:
    """`"c8303c"` as (200, 48, 60)."""
    return tuple(bytes.fromhex(hexadecimal))
