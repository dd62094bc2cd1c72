"""The engine behind all protocols: clients' sessions, a queue with turns, batches for the policy."""
