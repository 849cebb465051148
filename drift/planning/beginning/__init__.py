"""A first configuration: `drift init`.

examples   the configurations that come with the package, copied with what they name
rows       which columns of a source are what, from its first rows
first      models, data and place → the file, its profile, and what to type next
"""
