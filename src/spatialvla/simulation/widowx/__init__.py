"""SimplerEnv's WidowX tasks in ManiSkill 3: the environment, its scripted expert, and recorded demonstrations."""
