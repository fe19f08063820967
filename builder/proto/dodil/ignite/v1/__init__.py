"""Generated code of the package dodil.ignite.v1; see builder/proto/generate.py."""
