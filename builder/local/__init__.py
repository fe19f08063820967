"""Everything on one machine: a build in one process, `dev` with all real parts, a run of an artifact, the doctor."""
