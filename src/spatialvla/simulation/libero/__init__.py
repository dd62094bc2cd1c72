"""LIBERO's tasks in MuJoCo: the environment, its scripted expert, and recorded demonstrations."""
