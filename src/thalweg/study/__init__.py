"""Studies: a question, the claims that answer it, and how a file that asks one is found, run and resumed.

Nothing is imported here, so that listing the studies loads no JAX: `catalogue` reads files without running them,
`claim` holds what a study returns, `definition` the decorator, `files` how a study's file is loaded, `run` the folder
that it sees, `runner` how it is carried out.
"""
