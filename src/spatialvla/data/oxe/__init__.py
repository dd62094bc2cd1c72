"""Open X-Embodiment: how each of its datasets becomes images, instructions and actions of one convention."""
