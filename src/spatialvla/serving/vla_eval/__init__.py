"""vla-eval's protocol, on the harness's own server."""
