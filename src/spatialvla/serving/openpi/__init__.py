"""openpi's protocol: websocket and msgpack."""
