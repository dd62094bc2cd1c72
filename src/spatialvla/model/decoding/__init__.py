"""From a prompt to a chunk of action ids: passes of the decoder, and drafts that save some of them."""
