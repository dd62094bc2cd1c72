"""SimplerEnv's WidowX tasks in ManiSkill 3: the environment and its scripted expert."""
