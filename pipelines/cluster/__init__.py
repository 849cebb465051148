"""A run on a Kubeflow cluster.

compile    the definition for a cluster, strictly checked     server    the server: token, answers, refusals
submit     one run, followed to its end                       runs      runs found, stopped, retried; their logs
schedule   runs at set times, each on a version               versions  pipelines kept on the server, compared
cron       expressions as Kubeflow reads them                 needs     what pods must be given
namespace  what a namespace has                               rights    what a training on several nodes may do
pod        a pod like a role's; look: what it sees            api       Kubernetes' client and its refusals

Following: `follow` asks the server, MLflow and the cluster in turn; `states` reads the server's list of nodes, whose
places `graph` finds; `pods` is the cluster's view; `board` makes one event of what the three say.
"""
