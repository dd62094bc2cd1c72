"""What the scripted expert can do in LIBERO: carry, open and close, turn, push; each from the present state alone."""
