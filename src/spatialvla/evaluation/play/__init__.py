"""Playing: worker processes step environments while one policy decides for all of them."""
