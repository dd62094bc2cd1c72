"""For the edge: the network as graphs of static shapes, and a runner of them that needs no PyTorch."""
