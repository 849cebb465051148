"""A run on this machine: its folders, its processes or containers, Kubeflow's local runner."""
