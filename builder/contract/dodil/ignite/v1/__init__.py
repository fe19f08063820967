"""Generated code of the package dodil.ignite.v1; see builder/contract/generate.py."""
