"""Git sources: which URLs and names are accepted, which commit a name is, and the commands that fetch it. Pure."""
