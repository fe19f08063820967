"""Git sources: which URLs and names are taken, which commit a name is, and the commands that fetch it. Pure."""
