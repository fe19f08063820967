"""The build node: claims builds, runs the line, keeps their output until the API has it."""
