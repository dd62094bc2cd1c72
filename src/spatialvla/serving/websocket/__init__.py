"""What the protocols over websockets share."""
