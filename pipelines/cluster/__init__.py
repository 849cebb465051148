"""A run on a Kubeflow cluster.

compile    the definition for a cluster, strictly checked     submit    one run, followed to its end
schedule   runs at set times                                  needs     what pods must be given
namespace  what a namespace has                               pod       what a pod of each role sees
"""
