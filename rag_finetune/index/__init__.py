"""The index folder: what it says about itself, building it, opening it, searching it."""
