"""Finding where a camera stands, from what it sees: correspondences and printed boards."""
