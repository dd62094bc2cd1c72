"""What a run starts from: a model, a processor, and the parameters that it trains."""
