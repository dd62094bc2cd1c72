"""The spatial exam: pairs of tasks in LIBERO's tabletop scene that differ in space alone, or in what is said of it."""
