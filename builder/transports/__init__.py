"""How the services are reached: a transport translates, and decides nothing."""
