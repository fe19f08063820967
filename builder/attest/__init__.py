"""What a build says of its artifact: the SLSA provenance (unsigned until a signer joins it)."""
