"""A training on several nodes of a cluster.

cluster  creates a TrainJob and watches it      trainjob  the object itself
kube     Kubernetes' objects, as far as needed  node      what runs in its pods
shared   the claim where they meet
"""
