"""The commands. Each is a function that answers its exit code; `builder/cli/app.py` ties them together."""
