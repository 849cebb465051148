"""A run on a cluster: compile, submit and follow, schedule; what its namespace has and its pods see."""
