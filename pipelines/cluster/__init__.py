"""A run on a Kubeflow cluster.

compile    the definition for a cluster, strictly checked     submit    one run, followed to its end
schedule   runs at set times                                  needs     what pods must be given
namespace  what a namespace has                               rights    what a training on several nodes may do
pod        a pod like a role's; look: what it sees            api       Kubernetes' client and its refusals
"""
