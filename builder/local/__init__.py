"""Everything on one machine: the embedded server, a run of an artifact, the doctor."""
