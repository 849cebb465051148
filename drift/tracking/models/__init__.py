"""The registry: models that passed the gate, as versions that people can work with.

registry  registered models and the champions           registration  a model that passed becomes a version
promotion which version serves                          standing  what stands against a version
by_hand   promote, roll back, reject                    versions  as a person looks at them
rights    what MLflow lets its user do                  ledger    every look that a gate took
copies    a model's files in MLflow                     storage   files of a model, from any address
card      a version's model card                        packaging what lies beside its weights in MLflow
named     where registered models came from             served    how MLflow's pyfunc loads it
at_hand   a version by its name, and its files here
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
