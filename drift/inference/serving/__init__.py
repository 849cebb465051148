"""A model served until somebody ends it, for people and programs; `drift.inference.served` is for one step.

named       what a model is called by: a directory, a hub id, a registered version
command     the words of `vllm serve`              service  that command started, awaited and ended with us
kserve      the same as an InferenceService of KServe
"""
